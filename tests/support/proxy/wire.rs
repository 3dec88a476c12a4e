//! As much of Postgres' protocol as it takes to slip a statement into a listening connection
//! (<https://www.postgresql.org/docs/current/protocol-message-formats.html>).

use std::borrow::Cow;

/// How a client commits: a simple query. The type, the length, the text.
pub const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";

/// The same for `UNLISTEN *`.
pub const UNLISTEN: &[u8] = b"Q\0\0\0\x0fUNLISTEN *\0";

/// What comes before its name, in what a connection says first. (Where TLS is asked for first, it is not found.)
const NAME: &[u8] = b"application_name\0";

/// What a listening connection is called.
const LISTENER: &str = "agent-sync listener";

/// What a connection calls itself in what it says first.
pub fn name(greeting: &[u8]) -> Option<String> {
    let at = greeting.windows(NAME.len()).position(|part| part == NAME)?;
    let name = greeting[at + NAME.len()..]
        .split(|byte| *byte == 0)
        .next()?;
    String::from_utf8(name.to_vec()).ok()
}

/// What is known of a session from what it has carried.
#[derive(Default)]
pub struct Session {
    greeted: bool,
    /// A listening one's messages from the server are told apart; any other's are just bytes.
    listener: Option<Listener>,
}

#[derive(Default)]
struct Listener {
    /// The beginning of a message whose end has not come yet.
    begun: Vec<u8>,
    /// How often the server was ready for the next query: first after the greeting, then after LISTEN.
    ready: u64,
    /// The server is waiting for the client.
    idle: bool,
    unlistening: bool,
}

impl Session {
    pub fn client_says(&mut self, bytes: &[u8]) {
        if !self.greeted {
            self.greeted = true;
            if name(bytes).as_deref() == Some(LISTENER) {
                self.listener = Some(Listener::default());
            }
        }
        if let Some(listener) = &mut self.listener {
            listener.idle = false;
        }
    }

    /// What of it is for the client.
    pub fn server_says<'a>(&mut self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        match &mut self.listener {
            None => bytes.into(),
            Some(listener) => listener.server_says(bytes).into(),
        }
    }

    /// Has said LISTEN, and nothing is under way.
    pub fn is_listening(&self) -> bool {
        self.listener
            .as_ref()
            .is_some_and(|listener| listener.idle && listener.ready > 1)
    }

    /// From now on until the server is ready again, its answers are not the client's.
    pub fn unlisten(&mut self) {
        if let Some(listener) = &mut self.listener {
            listener.unlistening = true;
            listener.idle = false;
        }
    }

    pub fn is_unlistening(&self) -> bool {
        self.listener
            .as_ref()
            .is_some_and(|listener| listener.unlistening)
    }
}

impl Listener {
    fn server_says(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.begun.extend_from_slice(bytes);
        let mut passed = Vec::new();
        while let Some(message) = self.next_message() {
            let ready = message[0] == b'Z';
            if ready {
                self.ready += 1;
                self.idle = true;
            }
            // Only these two answer the `UNLISTEN`; a notification that comes in between is the client's.
            let ours = self.unlistening && (ready || message[0] == b'C');
            if ours {
                self.unlistening = !ready;
            } else {
                passed.extend(message);
            }
        }
        passed
    }

    /// A type, four bytes of length that count themselves, and the rest.
    fn next_message(&mut self) -> Option<Vec<u8>> {
        let length: [u8; 4] = self.begun.get(1..5)?.try_into().expect("four bytes");
        let end = 1 + usize::try_from(u32::from_be_bytes(length)).expect("small");
        (self.begun.len() >= end).then(|| self.begun.drain(..end).collect())
    }
}
