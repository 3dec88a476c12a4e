//! A client of server-sent events, as a browser's `EventSource` reads them.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::server::Client;

/// Only reached when the code is wrong.
const DEADLINE: Duration = Duration::from_secs(60);

pub struct EventSource {
    pub head: String,
    stream: BufReader<TcpStream>,
    text: String,
    ready: VecDeque<Event>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub id: Option<u64>,
    pub kind: String,
    pub data: Value,
}

impl EventSource {
    /// Of all that there is, or of what comes after the last event that was seen.
    pub async fn open(address: SocketAddr, last: Option<u64>) -> Self {
        let last = last.map_or(String::new(), |id| format!("last-event-id: {id}\r\n"));
        let request =
            format!("GET /events HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n{last}\r\n");
        let mut client = Client::connect(address).await;
        client.send(request).await;
        let head = client.head().await.to_ascii_lowercase();
        Self {
            head,
            stream: BufReader::new(client.stream),
            text: String::new(),
            ready: VecDeque::new(),
        }
    }

    /// The next event.
    pub async fn next(&mut self) -> Event {
        self.at_last().await.expect("an event, and not the end")
    }

    /// The next event, or `None` at a clean end.
    pub async fn at_last(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let chunk = timeout(DEADLINE, self.chunk()).await.expect("in time");
            self.text.push_str(&chunk?);
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                self.ready.extend(parse(block));
                self.text = rest.to_owned();
            }
        }
    }

    /// Those that have come already.
    pub fn come(&mut self) -> Vec<Event> {
        self.ready.drain(..).collect()
    }

    async fn chunk(&mut self) -> Option<String> {
        let mut size = String::new();
        while !size.ends_with("\r\n") {
            size.push(self.stream.read_u8().await.expect("a chunk").into());
        }
        let size = usize::from_str_radix(size.trim_end(), 16).expect("a size");
        let mut bytes = vec![0; size + 2];
        self.stream.read_exact(&mut bytes).await.expect("a chunk");
        bytes.truncate(size);
        (size > 0).then(|| String::from_utf8(bytes).expect("text"))
    }
}

/// `None`: a comment, or a setting.
fn parse(block: &str) -> Option<Event> {
    let field = |name: &str| {
        let mut lines = block.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    };
    Some(Event {
        id: field("id").map(|id| id.parse().expect("a number")),
        kind: field("event").unwrap_or("message").to_owned(),
        data: serde_json::from_str(field("data")?).expect("JSON"),
    })
}
