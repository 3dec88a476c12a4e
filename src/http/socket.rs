//! A client's socket, with what hyper leaves to others: a deadline for taking an answer, and an end at which the client
//! still gets it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// What is read of a request that was answered before all of it had come, and for how long, before the connection is
/// closed. Else the client's sending fails, and it never looks at the answer.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_BYTES: usize = 16 * 1024 * 1024;

#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    /// How long a client may take to read an answer. The whole of it: one that takes a byte a second is no better.
    patience: Duration,
    /// Runs from when the kernel's buffer is full until all is written.
    writing: Option<Pin<Box<Sleep>>>,
    /// Whether the last request was answered before all of it had come.
    unread: Arc<AtomicBool>,
    /// Runs once the end of the answer is sent.
    lingering: Option<Pin<Box<Sleep>>>,
    lingered: usize,
}

impl Socket {
    pub fn new(stream: TcpStream, patience: Duration, unread: Arc<AtomicBool>) -> Self {
        Self {
            stream,
            patience,
            unread,
            writing: None,
            lingering: None,
            lingered: 0,
        }
    }

    /// What a write came to, unless it is too late.
    fn in_time(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_pending() {
            let patience = self.patience;
            let deadline = self
                .writing
                .get_or_insert_with(|| Box::pin(sleep(patience)));
            ready!(deadline.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        written
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buffer);
        self.in_time(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, buffers);
        self.in_time(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Called when everything is written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writing = None;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = &mut *self;
        if socket.lingering.is_none() {
            ready!(Pin::new(&mut socket.stream).poll_shutdown(cx))?;
        }
        if !socket.unread.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let deadline = socket
            .lingering
            .get_or_insert_with(|| Box::pin(sleep(LINGER)));
        let mut bytes = [0; 8192];
        while socket.lingered < LINGER_BYTES && deadline.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut bytes);
            match ready!(Pin::new(&mut socket.stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => socket.lingered += buffer.filled().len(),
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}
