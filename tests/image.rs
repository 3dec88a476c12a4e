//! The container image: with a read-only root, without any capability, as nobody, it does what the binary does.

use std::net::UdpSocket;

use agent_sync::config::{ADMIN_ADDR, DATABASE_URL, HTTP_ADDR, SCOPE};

use crate::support::container::{Container, Network, ended, inspect};
use crate::support::worker::request;
use crate::support::{TestDatabase, eventually};

const MEGABYTE: u64 = 1_000_000;

#[tokio::test]
async fn the_image_is_small_and_says_what_it_needs() {
    let image = inspect().await;
    let size = image["Size"].as_u64().expect("a size");
    assert!(
        size < 15 * MEGABYTE,
        "{:.1} MB",
        size as f64 / MEGABYTE as f64
    );
    let config = &image["Config"];
    // By number: Kubernetes cannot tell from a name that it is not root.
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["Entrypoint"], serde_json::json!(["/agent-sync"]));
    assert_eq!(config["StopSignal"], "SIGTERM");
    let ports = config["ExposedPorts"].as_object().expect("ports");
    assert!(ports.keys().eq(["8090/tcp"]), "{ports:?}");
    let version = &image["Labels"]["org.opencontainers.image.version"];
    assert_eq!(version, env!("CARGO_PKG_VERSION"), "in deploy/Dockerfile");
}

/// The way of a container: it starts, syncs, hears of an edit, is found healthy, and ends when it is told to.
#[tokio::test]
async fn read_only_without_capabilities_and_as_nobody_it_does_the_main_job() {
    let db = TestDatabase::new().await;
    let agent = db.agent("a").await;
    db.forget_edits().await;
    // A name that is in the container's /etc/hosts: a static binary looks it up by itself.
    let url = db.url_by_way_of(format!("database.test:{}", db.port()));
    let mut container = Container::serve(
        Network::Host,
        &["--add-host=database.test:127.0.0.1"],
        &[
            (DATABASE_URL, &url),
            (SCOPE, "all"),
            (HTTP_ADDR, "127.0.0.1:0"),
            (ADMIN_ADDR, "127.0.0.1:0"),
        ],
    );
    container
        .running
        .line("Startup sync summary: total=1 created=1")
        .await;
    let admin = container.running.admin().await;
    eventually("it is ready", || async {
        match request(admin, "GET", "/ready", None).await {
            (200, _) => Ok(()),
            (status, body) => Err(format!("{status} {body}")),
        }
    })
    .await;
    db.execute(&format!(
        "update public.agents set system_prompt = 'Be brief.' where id = '{agent}'"
    ))
    .await;
    db.prompted(agent, "Be brief.").await;

    // The health check finds the admin server by this variable, and 0 is no port to find.
    let health = container.health(&[(ADMIN_ADDR, &admin.to_string())]).await;
    assert!(health.status.success(), "{health:?}");
    for (field, value) in [
        ("CapEff", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("NoNewPrivs", "1"),
    ] {
        assert_eq!(container.status(field).await, value, "{field}");
    }
    let uid = container.status("Uid").await;
    assert!(!uid.split('\t').any(|uid| uid == "0"), "{uid}");

    assert_eq!(container.stop().await, Some(0));
}

/// With the addresses that the image sets, and nothing else: no database either.
#[tokio::test]
async fn the_health_check_finds_what_the_image_itself_sets() {
    let mut container = Container::serve(Network::None, &[], &[]);
    let line = container.running.line("agent-sync started").await;
    assert!(
        line.contains("api=0.0.0.0:8090 admin=0.0.0.0:8091"),
        "{line}"
    );
    let health = container.health(&[]).await;
    assert!(health.status.success(), "{health:?}");
    assert_eq!(container.stop().await, Some(0));
}

/// With no roots at all, this would be bad configuration.
#[tokio::test]
async fn there_are_ca_roots_in_it() {
    let url = "postgresql://nobody@127.0.0.1:1/postgres?sslmode=verify-full";
    let without = &["--env=SSL_CERT_FILE=/nowhere"];
    for (options, code, says) in [
        ([].as_slice(), 1, "error connecting to server"),
        (without, 64, "no usable root certificates"),
    ] {
        let ended = ended(Network::None, options, &[(DATABASE_URL, url)], &["migrate"]).await;
        assert_eq!(ended.code, Some(code), "{ended:?}");
        assert!(ended.stderr.contains(says), "{ended:?}");
    }
}

/// In a static binary, glibc looks up names by itself, with nothing of what it usually loads for that.
#[tokio::test]
async fn it_finds_hosts_by_dns() {
    // DNS has this port, and a resolv.conf cannot name another one.
    let server = match UdpSocket::bind("127.0.53.53:53") {
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            println!("not tested: DNS takes port 53, which this user may not have");
            return;
        }
        server => server.expect("a socket"),
    };
    std::thread::spawn(move || answer(&server));
    let conf = std::env::temp_dir().join(format!("agent-sync-resolv-{}", std::process::id()));
    // As a cluster's pods have it: the name is first looked for among neighbours.
    let text = "nameserver 127.0.53.53\nsearch agents.svc.cluster.local svc.cluster.local\noptions ndots:5\n";
    std::fs::write(&conf, text).expect("written");
    let volume = format!("--volume={}:/etc/resolv.conf:ro", conf.display());

    let db = TestDatabase::to_install().await;
    let migrate = async |host: &str| {
        let url = db.url_by_way_of(format!("{host}:{}", db.port()));
        let variables = [(DATABASE_URL, url.as_str())];
        ended(Network::Host, &[&volume], &variables, &["migrate"]).await
    };
    let unknown = migrate("nowhere.test").await;
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
    assert!(
        unknown.stderr.contains("failed to lookup address"),
        "{unknown:?}"
    );
    for host in ["database.test", "database", "localhost"] {
        let known = migrate(host).await;
        assert_eq!(known.code, Some(0), "{host}: {known:?}");
    }
    std::fs::remove_file(conf).expect("removed");
}

/// A server that knows two names, both for 127.0.0.1, and of others that they do not exist.
fn answer(server: &UdpSocket) {
    let mut query = [0; 512];
    while let Ok((length, client)) = server.recv_from(&mut query) {
        // After twelve bytes of header, the name in labels to the empty one, and then the type and the class.
        let question = &query[12..length];
        let name = question.split(|byte| *byte == 0).next().unwrap_or_default();
        let [_, kind] = question[name.len() + 1..name.len() + 3] else {
            continue;
        };
        let is_known = [
            b"\x08database\x04test".as_slice(),
            b"\x08database\x06agents\x03svc\x07cluster\x05local",
        ]
        .contains(&name);
        let has_address = is_known && kind == 1;
        let mut answer = query[..2].to_vec();
        answer.extend([0x81, if is_known { 0x80 } else { 0x83 }]);
        answer.extend([0, 1, 0, u8::from(has_address), 0, 0, 0, 0]);
        answer.extend(&question[..name.len() + 5]);
        if has_address {
            // The name again, by reference; A, IN, for 60 s, four bytes.
            answer.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x7f\0\0\x01");
        }
        let _ = server.send_to(&answer, client);
    }
}
