//! A real Chromium without a window, driven over WebDriver (`make chromium` installs both).
//!
//! A shell stands between, the keeper, as it does for PostgreSQL: it starts the driver in a temporary directory, ends it and the
//! browser when this process is gone or nobody needs them, and removes the directory.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;
use uuid::Uuid;

use super::server::Client;

/// Arguments: the directory, the driver. The driver says on our output which port it has taken. Driver and browser are one group.
const KEEPER: &str = r#"
trap '' INT TERM HUP PIPE
dir=$1
export HOME="$dir" TMPDIR="$dir"
setsid sh -c 'echo $$ >"$0/pid"; exec "$1" --port=0' "$dir" "$2" </dev/null 2>>"$dir/log" &
read -r _
kill -s KILL -- -"$(cat "$dir/pid")"
wait
rm -rf "$dir"
"#;

const DRIVER: &str = "/usr/bin/chromedriver";
const BROWSER: &str = "/usr/bin/chromium";

/// Only reached when the code is wrong.
const DEADLINE: Duration = Duration::from_secs(60);

/// Keys as WebDriver writes them.
pub const TAB: char = '\u{e004}';
pub const ENTER: char = '\u{e007}';
pub const SHIFT: char = '\u{e008}';
pub const RIGHT: char = '\u{e014}';

/// One window, with nothing that another test did.
pub struct Browser {
    driver: SocketAddr,
    session: String,
    keeper: Child,
    orders: Option<ChildStdin>,
}

impl Browser {
    pub async fn start() -> Self {
        for program in [DRIVER, BROWSER] {
            assert!(
                Path::new(program).exists(),
                "no {program}: run `make chromium`"
            );
        }
        let directory: PathBuf =
            std::env::temp_dir().join(format!("agent-sync-browser-{}", Uuid::new_v4().simple()));
        std::fs::create_dir(&directory).expect("a directory");
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "sh"])
            .arg(&directory)
            .arg(DRIVER)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut said = BufReader::new(keeper.stdout.take().expect("its output")).lines();
        let port = async {
            loop {
                let line = said.next_line().await.expect("its output");
                let line = line.expect("the driver says where it is");
                if let Some((_, port)) = line.split_once("successfully on port ") {
                    break port.trim_end_matches('.').parse().expect("a port");
                }
            }
        };
        let port: u16 = timeout(DEADLINE, port).await.expect("the driver starts");
        let mut browser = Self {
            driver: SocketAddr::from(([127, 0, 0, 1], port)),
            session: String::new(),
            orders: keeper.stdin.take(),
            keeper,
        };
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:loggingPrefs": { "browser": "ALL" },
            "goog:chromeOptions": { "binary": BROWSER, "args": [
                "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
                "--disable-sync", "--disable-breakpad", "--disable-dev-shm-usage", "--hide-scrollbars", "--lang=en-GB",
            ] },
        } } });
        let session = browser.ask("POST", "/session", &wanted).await;
        session["sessionId"]
            .as_str()
            .expect("a session")
            .clone_into(&mut browser.session);
        browser.resize(1280, 1000).await;
        browser
    }

    /// One command of the driver's. Its errors are the test's.
    async fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = match method {
            "POST" => body.to_string(),
            _ => String::new(),
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.driver,
            body.len()
        );
        let mut client = Client::connect(self.driver).await;
        client.send(request).await;
        let head = client.head().await.to_ascii_lowercase();
        // It keeps the connection, and writes its headers without spaces.
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length
            .and_then(|length| length.trim().parse().ok())
            .expect("a length");
        let mut answer = vec![0; length];
        let read = timeout(DEADLINE, client.stream.read_exact(&mut answer)).await;
        read.expect("in time").expect("an answer");
        let mut answer: Value = serde_json::from_slice(&answer).expect("JSON");
        assert!(
            head.starts_with("http/1.1 200 "),
            "{method} {path} {body}: {answer}"
        );
        answer["value"].take()
    }

    async fn command(&self, path: &str, body: Value) -> Value {
        let path = format!("/session/{}/{path}", self.session);
        self.ask("POST", &path, &body).await
    }

    async fn devtools(&self, command: &str, parameters: Value) -> Value {
        let body = json!({ "cmd": command, "params": parameters });
        self.command("goog/cdp/execute", body).await
    }

    pub async fn open(&self, url: &str) {
        self.command("url", json!({ "url": url })).await;
    }

    pub async fn resize(&self, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.devtools("Emulation.setDeviceMetricsOverride", size)
            .await;
    }

    /// What the reader prefers, such as `prefers-color-scheme: dark`.
    pub async fn prefer(&self, feature: &str, value: &str) {
        let features = json!({ "features": [{ "name": feature, "value": value }] });
        self.devtools("Emulation.setEmulatedMedia", features).await;
    }

    /// Runs before anything else on every page from now on.
    pub async fn first_of_all(&self, script: &str) {
        let source = json!({ "source": script });
        self.devtools("Page.addScriptToEvaluateOnNewDocument", source)
            .await;
    }

    /// What this function body returns, in the page.
    pub async fn run(&self, script: &str, arguments: Value) -> Value {
        let body = json!({ "script": script, "args": arguments });
        self.command("execute/sync", body).await
    }

    /// What a reader sees of the first element that matches; `None` where there is none, or it is hidden.
    pub async fn sees(&self, selector: &str) -> Option<String> {
        let script = "const node = document.querySelector(arguments[0]);
            return node && node.checkVisibility() ? node.innerText.trim() : null";
        let seen = self.run(script, json!([selector])).await;
        seen.as_str().map(str::to_owned)
    }

    pub async fn count(&self, selector: &str) -> u64 {
        let script = "return document.querySelectorAll(arguments[0]).length";
        let count = self.run(script, json!([selector])).await;
        count.as_u64().expect("a number")
    }

    /// Waits until a reader sees this in the first element that matches.
    pub async fn shows(&self, selector: &str, text: &str) {
        super::eventually(&format!("`{text}` in {selector}"), || async {
            match self.sees(selector).await {
                Some(seen) if seen.contains(text) => Ok(()),
                seen => Err(format!("{seen:?}")),
            }
        })
        .await;
    }

    /// Waits until a reader sees nothing there.
    pub async fn hides(&self, selector: &str) {
        super::eventually(&format!("nothing in {selector}"), || async {
            self.sees(selector).await.map_or(Ok(()), Err)
        })
        .await;
    }

    /// Waits until so many elements match.
    pub async fn counts(&self, selector: &str, expected: u64) {
        super::eventually(&format!("{expected} times {selector}"), || async {
            match self.count(selector).await {
                n if n == expected => Ok(()),
                n => Err(n.to_string()),
            }
        })
        .await;
    }

    /// Clicks with a pointer, where the element is.
    pub async fn click(&self, selector: &str) {
        let found = json!({ "using": "css selector", "value": selector });
        let found = self.command("element", found).await;
        let (_, id) = found
            .as_object()
            .and_then(|found| found.iter().next())
            .expect("an element");
        let id = id.as_str().expect("an id");
        self.command(&format!("element/{id}/click"), json!({}))
            .await;
    }

    /// Presses keys, one after the other, wherever the focus is. After [`SHIFT`] the next one is shifted.
    pub async fn press(&self, keys: impl IntoIterator<Item = char>) {
        let mut actions = Vec::new();
        let mut shifted = false;
        for key in keys {
            actions.push(json!({ "type": "keyDown", "value": key }));
            if key == SHIFT {
                shifted = true;
                continue;
            }
            actions.push(json!({ "type": "keyUp", "value": key }));
            if std::mem::take(&mut shifted) {
                actions.push(json!({ "type": "keyUp", "value": SHIFT }));
            }
        }
        let keyboard =
            json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": actions }] });
        self.command("actions", keyboard).await;
    }

    /// What the accessibility tree calls each of these, for a screen reader: role and name.
    pub async fn told(&self, selector: &str) -> Vec<(String, String)> {
        let root = self.devtools("DOM.getDocument", json!({})).await;
        let root = &root["root"]["nodeId"];
        let found = self
            .devtools(
                "DOM.querySelectorAll",
                json!({ "nodeId": root, "selector": selector }),
            )
            .await;
        let mut told = Vec::new();
        for node in found["nodeIds"].as_array().expect("nodes") {
            let tree = self
                .devtools(
                    "Accessibility.getPartialAXTree",
                    json!({ "nodeId": node, "fetchRelatives": false }),
                )
                .await;
            let said = |what: &str| {
                let said = &tree["nodes"][0][what]["value"];
                said.as_str().unwrap_or_default().to_owned()
            };
            told.push((said("role"), said("name")));
        }
        told
    }

    /// What the browser has complained of since it was asked last: what throws, what the policy refuses, what cannot be fetched.
    pub async fn complaints(&self) -> Vec<String> {
        let log = self.command("se/log", json!({ "type": "browser" })).await;
        let log = log.as_array().expect("a log").iter();
        log.map(|entry| format!("{} {}", entry["level"], entry["message"]))
            .collect()
    }

    /// Waits until nothing is left of it.
    pub async fn close(mut self) {
        drop(self.orders.take());
        let ended = timeout(DEADLINE, self.keeper.wait()).await;
        ended.expect("it ends").expect("a status");
    }
}
