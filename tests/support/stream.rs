//! A run, as a client of LangGraph's Python SDK sees it: tests/fixtures/sdk/stream.py.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use tokio::time::timeout;

use super::langgraph::{DEADLINE, alone, program};

/// A run that the Python SDK streams.
pub struct Stream {
    /// Killed with it: a client that goes away.
    _client: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

/// An event of a run.
#[derive(Debug, PartialEq)]
pub struct Event {
    /// Since the request, when it arrived.
    pub after: Duration,
    pub event: String,
    pub data: Value,
}

impl Stream {
    /// Of this assistant (or a graph, by its name) at this URL.
    pub fn start(url: &str, assistant: &str, input: &Value, variables: &[(&str, &str)]) -> Self {
        let mut command = program("stream.py");
        command
            .args([url, assistant, &input.to_string()])
            .envs(variables.iter().copied());
        let mut client = alone(&mut command, &std::env::temp_dir())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        let lines = BufReader::new(client.stdout.take().expect("its output")).lines();
        Self {
            _client: client,
            lines,
        }
    }

    /// The next event, once it is there. `None`: it was the last one.
    pub async fn next(&mut self) -> Option<Event> {
        let line = timeout(DEADLINE, self.lines.next_line())
            .await
            .expect("an event in time")
            .expect("a line")?;
        let event: Value = serde_json::from_str(&line).expect("an event");
        Some(Event {
            after: Duration::from_secs_f64(event["after"].as_f64().expect("seconds")),
            event: event["event"].as_str().expect("a name").to_owned(),
            data: event["data"].clone(),
        })
    }

    /// What the run says, as far as this.
    pub async fn says(&mut self, words: &str) {
        let mut said = String::new();
        while said != words {
            let Some(event) = self.next().await else {
                panic!("it says `{said}`, and no more");
            };
            if event.event == "messages" {
                said.push_str(event.data[0]["content"].as_str().expect("words"));
            }
            assert!(words.starts_with(&said), "it says `{said}`");
        }
    }

    /// What is left of it.
    pub async fn rest(mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}
