//! What `deploy/` says is true: the files are what compose and Kubernetes take, and every variable that they name there is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use agent_sync::config::{Config, NAMES, Variables};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::support::TestDatabase;
use crate::support::binary;
use crate::support::database::Role;

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn text(path: &str) -> String {
    std::fs::read_to_string(file(path)).expect(path)
}

/// Whether there is this variable, perhaps as the file that holds its value.
fn is_known(name: &str) -> bool {
    NAMES.contains(&name.strip_suffix("_FILE").unwrap_or(name))
}

/// Words that only a variable of ours can be.
fn named(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_uppercase() || c == '_'))
        .filter(|word| word.starts_with("AGENT_SYNC_"))
        .collect()
}

/// Variable and default, as README has them: `None` where it is unset, or not a single value. Without those that name files.
fn documented() -> BTreeMap<String, Option<String>> {
    let readme = text("README.md");
    let (_, table) = readme
        .split_once("| variable | default |")
        .expect("a table");
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let rows: Vec<(String, String)> = rows
        .map(|row| {
            let mut cells = row.trim_matches('|').split(" | ").map(str::trim);
            let (name, default) = (cells.next().expect("a name"), cells.next());
            (
                name.trim_matches('`').to_owned(),
                default.expect("a default").to_owned(),
            )
        })
        .collect();
    let names: BTreeSet<String> = rows.iter().map(|(name, _)| name.clone()).collect();
    let value = |default: &str| {
        let value = default.trim_matches('`');
        let is_one = value.len() + 2 == default.len() || value.parse::<u32>().is_ok();
        // Another variable's name stands for that one's value.
        (is_one && !names.contains(value)).then(|| value.to_owned())
    };
    let rows = rows.iter().filter(|(name, _)| !name.ends_with("_FILE"));
    rows.map(|(name, default)| (name.clone(), value(default)))
        .collect()
}

#[test]
fn every_variable_named_in_deploy_is_one_of_ours() {
    let mut seen = 0;
    for entry in std::fs::read_dir(file("deploy")).expect("a directory") {
        let path = entry.expect("a file").path();
        let text = std::fs::read_to_string(&path).expect("text");
        for name in named(&text) {
            assert!(is_known(name), "{}: {name}", path.display());
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen}");
}

/// Each with one line of comment and its default, all of them commented out.
#[test]
fn the_example_of_an_environment_is_complete_and_sets_nothing() {
    let example = text("deploy/.env.example");
    let (_, entries) = example.split_once("\n\n").expect("a head");
    let lines: Vec<&str> = entries.lines().collect();
    let mut given = BTreeMap::new();
    for pair in lines.chunks(2) {
        let [comment, entry] = pair else {
            panic!("{pair:?}");
        };
        assert!(comment.starts_with("# ") && comment.len() > 5, "{comment}");
        let entry = entry.strip_prefix('#').expect("commented out");
        let (name, default) = entry.split_once('=').expect("name=default");
        let default = (!default.is_empty()).then(|| default.to_owned());
        assert!(given.insert(name.to_owned(), default).is_none(), "{name}");
    }
    assert_eq!(given, documented());

    // Whoever sets all of them has changed nothing.
    let set: Variables = given
        .into_iter()
        .map(|(name, default)| (name, default.unwrap_or_default()))
        // Without a database it is memory.
        .filter(|(name, _)| name != agent_sync::config::STORE)
        .collect();
    let [set, unset] = [set, Variables::new()].map(|variables| {
        let config = Config::from_variables(&variables);
        format!("{:?}", config.expect("usable"))
    });
    assert_eq!(set, unset);
}

#[tokio::test]
async fn compose_takes_the_file_and_agent_sync_its_variables() {
    let mut compose = Command::new("docker-compose");
    compose.arg("--file").arg(file("deploy/compose.yaml"));
    let output = compose.arg("config").output().await;
    let output = output.expect("docker-compose is installed by `make compose`");
    assert!(output.status.success(), "{output:?}");
    let compose = yaml(&output.stdout).await.remove(0);

    let service = &compose["services"]["agent-sync"];
    let variables = strings(&service["environment"]);
    for name in variables.keys() {
        assert!(is_known(name), "{name}");
    }
    let config = Config::from_variables(&variables).expect("usable");
    assert!(config.database.is_some());
    // Whoever asks is let in, so nobody else may be able to ask.
    for port in service["ports"].as_array().expect("ports") {
        assert!(port.as_str().expect("a port").starts_with("127.0.0.1:"));
    }
    assert!(compose["services"]["postgres"]["ports"].is_null());
}

/// The oldest version that has native sidecars, and the newest that this knows.
#[tokio::test]
async fn kubernetes_takes_the_file_and_agent_sync_its_variables() {
    let manifest = file("deploy/kubernetes.yaml");
    for version in [&["--kubernetes-version", "1.29"][..], &[]] {
        let mut validate = python();
        validate.args(["-m", "kubernetes_validate", "--strict"]);
        let validated = validate.args(version).arg(&manifest).output().await;
        let validated = validated.expect("it starts");
        assert!(validated.status.success(), "{version:?}: {validated:?}");
    }

    let objects = yaml(&std::fs::read(manifest).expect("the file")).await;
    let pod = &objects[0]["spec"]["template"]["spec"];
    let sidecar = &pod["initContainers"][0];
    assert_eq!(sidecar["restartPolicy"], "Always");
    let mut variables: Vec<(String, String)> = Vec::new();
    for variable in sidecar["env"].as_array().expect("variables") {
        let text = |key: &str| variable[key].as_str().expect("text").to_owned();
        variables.push((text("name"), text("value")));
    }
    let of = |name: &str| {
        let found = variables.iter().find(|(variable, _)| variable == name);
        found.map(|(_, value)| value.clone())
    };

    // The kubelet finds the admin server.
    let admin = of("AGENT_SYNC_ADMIN_ADDR").expect("an address");
    for (probe, path) in [
        ("startupProbe", "/live"),
        ("livenessProbe", "/live"),
        ("readinessProbe", "/ready"),
    ] {
        let get = &sidecar[probe]["httpGet"];
        assert_eq!(get["path"], path, "{probe}");
        assert_eq!(admin, format!("0.0.0.0:{}", get["port"]), "{probe}");
    }
    // Clients find the API, at the address that the image sets.
    assert_eq!(objects[1]["spec"]["ports"][0]["targetPort"], 8090);
    // What is passed on to, and written to, is what runs beside.
    let server = format!(
        "http://127.0.0.1:{}",
        pod["containers"][0]["ports"][0]["containerPort"]
    );
    assert_eq!(of("LANGGRAPH_API_URL").as_ref(), Some(&server));
    // The pod ends after the worker.
    let grace = pod["terminationGracePeriodSeconds"].as_u64();
    assert!(
        grace > Some(agent_sync::worker::GRACE.as_secs()),
        "{grace:?}"
    );

    // With a database of this test's in the Secret, it is a configuration that works.
    let db = TestDatabase::for_role(Role::Worker).await;
    let mounts = sidecar["volumeMounts"].as_array().expect("mounts");
    let mounted = mounts[0]["mountPath"].as_str().expect("a path");
    let secret = std::env::temp_dir().join(format!("agent-sync-secret-{}", std::process::id()));
    std::fs::create_dir(&secret).expect("a directory");
    std::fs::write(secret.join("database-url"), format!("{}\n", db.url)).expect("written");
    for (_, value) in &mut variables {
        *value = value.replace(mounted, secret.to_str().expect("text"));
    }
    let variables: Vec<(&str, &str)> = variables
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let ended = binary::run(&["migrate"], &variables).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    std::fs::remove_dir_all(secret).expect("removed");
}

/// The documents of a YAML stream.
async fn yaml(stream: &[u8]) -> Vec<Value> {
    let read = "import json, sys, yaml; json.dump(list(yaml.safe_load_all(sys.stdin)), sys.stdout)";
    let mut python = python()
        .args(["-c", read])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut input = python.stdin.take().expect("its input");
    input.write_all(stream).await.expect("written");
    drop(input);
    let output = python.wait_with_output().await.expect("it ends");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn strings(object: &Value) -> Variables {
    let object = object.as_object().expect("an object").iter();
    object
        .map(|(name, value)| (name.clone(), value.as_str().expect("text").to_owned()))
        .collect()
}

/// With kubernetes-validate, and the YAML reader that it brings.
fn python() -> Command {
    let python = file("target/kubernetes/bin/python");
    assert!(
        python.exists(),
        "no Python at {}: run `make kubernetes`",
        python.display()
    );
    Command::new(python)
}
