//! LangGraph's SDKs, as programs that use them: tests/fixtures/sdk.

use std::path::{PathBuf, absolute};

use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use super::langgraph::{DEADLINE, alone, fixtures, program};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sdk {
    Python,
    JavaScript,
}

impl Sdk {
    /// What it experiences at this URL: the steps of tests/fixtures/sdk/scenario.py, which says what the variables are.
    pub async fn scenario(self, url: &str, variables: &[(&str, &str)]) -> Vec<Value> {
        let mut command = match self {
            Self::Python => program("scenario.py"),
            Self::JavaScript => {
                let mut node = Command::new("node");
                node.arg(fixtures("sdk").join("scenario.mjs"))
                    .env("LANGGRAPH_SDK_JS", javascript());
                node
            }
        };
        command.arg(url).envs(variables.iter().copied());
        let output = alone(&mut command, &std::env::temp_dir())
            .kill_on_drop(true)
            .output();
        let output = timeout(DEADLINE, output)
            .await
            .unwrap_or_else(|_| panic!("the scenario of {self:?} does not end"))
            .expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the scenario of {self:?}: {said}");
        serde_json::from_slice(&output.stdout).expect("a list of steps")
    }
}

/// The directory whose `node_modules` has the JavaScript SDK.
fn javascript() -> PathBuf {
    let installed = concat!(env!("CARGO_MANIFEST_DIR"), "/target/langgraph-sdk");
    let directory = std::env::var_os("LANGGRAPH_SDK_JS").unwrap_or_else(|| installed.into());
    let directory = absolute(directory).expect("a path");
    assert!(
        directory
            .join("node_modules/@langchain/langgraph-sdk")
            .exists(),
        "no JavaScript SDK in {}: run `make langgraph`, or set LANGGRAPH_SDK_JS",
        directory.display()
    );
    directory
}
