//! What is known of the request and the answer that pass over a connection just now. Who reads the one and who makes the
//! other say it here, and the socket goes by it.

use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Debug, Default)]
pub struct Exchange {
    /// Whether any of the request is still to come.
    unread: AtomicBool,
    /// Whether the answer comes bit by bit, however long that takes.
    streamed: AtomicBool,
    /// Whether closing the connection now would pass for the end of the answer.
    looks_whole: AtomicBool,
    /// Whether nobody misses the rest of the answer.
    may_be_cut: AtomicBool,
}

impl Exchange {
    /// The head of a request has come.
    pub fn begins(&self, has_body: bool) {
        self.unread.store(has_body, Ordering::Relaxed);
        self.streamed.store(false, Ordering::Relaxed);
        self.may_be_cut.store(false, Ordering::Relaxed);
    }

    /// All of the request has come.
    pub fn has_read(&self) {
        self.unread.store(false, Ordering::Relaxed);
    }

    pub fn is_unread(&self) -> bool {
        self.unread.load(Ordering::Relaxed)
    }

    /// The answer begins, bit by bit; perhaps only the connection's end tells where it ends.
    pub fn streams(&self, ends_with_connection: bool) {
        self.streamed.store(true, Ordering::Relaxed);
        self.looks_whole
            .store(ends_with_connection, Ordering::Relaxed);
    }

    /// The answer has no end of its own: whoever takes it can do without what is to come.
    pub fn may_be_cut(&self) {
        self.may_be_cut.store(true, Ordering::Relaxed);
    }

    pub fn is_cuttable(&self) -> bool {
        self.may_be_cut.load(Ordering::Relaxed)
    }

    pub fn is_streamed(&self) -> bool {
        self.streamed.load(Ordering::Relaxed)
    }

    /// All of a streamed answer has come.
    pub fn has_streamed(&self) {
        self.looks_whole.store(false, Ordering::Relaxed);
    }

    /// Whether a streamed answer that is broken off now would pass for a whole one.
    pub fn looks_whole(&self) -> bool {
        self.looks_whole.load(Ordering::Relaxed)
    }
}
