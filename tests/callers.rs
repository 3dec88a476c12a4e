//! Who is let in, what the log and `/ready` say about it, and what becomes of it when keys rotate or cannot be fetched.

use agent_sync::config::{
    ALLOW_ANONYMOUS, ALLOW_SERVICE_ROLE, Config, ConfigErrors, HTTP_ADDR, ROBYN_DEV,
    SUPABASE_JWKS_URL, SUPABASE_JWT_SECRET, SUPABASE_URL,
};
use futures::future::join_all;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::binary::{FREE_PORTS, Running};
use crate::support::jwks::{JwksServer, PATH, Publishes};
use crate::support::tokens::{SECRET, SigningKey};
use crate::support::worker::{exchange, request};
use crate::support::{Project, TestWorker, eventually};

const USER: Uuid = Uuid::from_u128(0x11111111_2222_4333_8444_555555555555);
const ON: &str = "true";

fn body() -> Value {
    json!({"graph_id": "agent"})
}

async fn started(variables: &[(&str, &str)]) -> TestWorker {
    let worker = TestWorker::start_with(variables).await;
    worker.ready().await;
    worker
}

#[tokio::test]
async fn what_a_caller_makes_is_theirs() {
    let project = Project::with_secret().await;
    let allowed = [
        project.variables(),
        vec![(ALLOW_SERVICE_ROLE, ON), (ALLOW_ANONYMOUS, ON)],
    ]
    .concat();
    let worker = started(&allowed).await;
    let anonymous = project.token_with(USER, json!({"is_anonymous": true}));
    let system = project.key.sign(&project.claims(
        USER,
        json!({"role": "service_role", "sub": null, "aud": null}),
    ));
    for (token, owner) in [
        (project.token(USER), USER.to_string()),
        (anonymous, USER.to_string()),
        (project.service_role(), "system".to_owned()),
        (system, "system".to_owned()),
    ] {
        let (status, answer) = worker.create_as(&token, body()).await;
        assert_eq!(
            (status, &answer["metadata"]["owner"]),
            (200, &json!(owner)),
            "{answer}"
        );
    }
    // A backend's token has dates and an issuer, too.
    let secret = project.secret.as_ref().expect("a secret");
    for (claims, says) in [
        (json!({"iss": "supabase", "role": "service_role"}), "(exp)"),
        (
            json!({"iss": "supabase", "role": "service_role", "exp": 1}),
            "has expired",
        ),
        (
            json!({"iss": "https://other", "role": "service_role", "exp": 9_999_999_999_u64}),
            "(iss)",
        ),
        (
            json!({"role": "service_role", "exp": 9_999_999_999_u64}),
            "(iss)",
        ),
    ] {
        let (status, answer) = worker.create_as(&secret.sign(&claims), body()).await;
        assert!(
            status == 401
                && answer["detail"]
                    .as_str()
                    .is_some_and(|detail| detail.contains(says)),
            "{claims}: {answer}"
        );
    }
    worker.stop().await;
}

#[tokio::test]
async fn everything_below_assistants_asks_who_is_calling_before_it_reads_a_body() {
    let project = Project::new().await;
    let worker = started(&project.variables()).await;
    for (method, path) in [
        ("POST", "/assistants"),
        ("GET", "/assistants"),
        ("GET", "/assistants/x"),
        ("DELETE", "/assistants/x"),
        ("POST", "/assistants/search"),
        ("GET", "/assistants/x/versions"),
        ("PUT", "/assistants/"),
        ("POST", "/assistants/search/"),
        ("GET", "/assistants/x/nothing"),
        ("GET", "//assistants/x"),
    ] {
        // No body ever comes; and nobody is told to send it.
        let bytes = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 10\r\nconnection: close\r\n\r\n"
        );
        let (status, head, _) = exchange(worker.api, &bytes).await;
        assert!(
            status == 401 && head.contains("www-authenticate: bearer"),
            "{method} {path}: {head}"
        );
    }
    assert_eq!(request(worker.api, "GET", "/nowhere", None).await.0, 404);
    worker.stop().await;
}

#[tokio::test]
async fn without_keys_nobody_gets_in_and_the_log_says_what_to_set() {
    let running = Running::start(&[], FREE_PORTS);
    let line = running.line("no keys to know callers by").await;
    for name in [SUPABASE_URL, SUPABASE_JWT_SECRET, ROBYN_DEV] {
        assert!(line.contains(name), "{line}");
    }
    let api = running.api().await;
    let (status, answer) = request(api, "POST", "/assistants", Some(&body().to_string())).await;
    assert_eq!(
        (status, answer),
        (
            401,
            json!({"detail": "This server has no keys to know callers by"})
        )
    );
}

#[tokio::test]
async fn the_switch_for_development_lets_everybody_in_only_where_there_are_no_keys() {
    let worker = started(&[(ROBYN_DEV, ON)]).await;
    for answer in [
        worker.create(body()).await,
        worker.create_as("whatever", body()).await,
    ] {
        assert_eq!(
            (answer.0, &answer.1["metadata"]["owner"]),
            (200, &json!("dev"))
        );
    }
    worker.stop().await;
    let project = Project::new().await;
    let worker = started(&[project.variables(), vec![(ROBYN_DEV, ON)]].concat()).await;
    assert_eq!(worker.create(body()).await.0, 401);
    assert_eq!(worker.create_as("whatever", body()).await.0, 401);
    assert_eq!(worker.create_as(&project.token(USER), body()).await.0, 200);
    worker.stop().await;

    let open = [
        (ROBYN_DEV, ON),
        (HTTP_ADDR, "0.0.0.0:0"),
        ("AGENT_SYNC_ADMIN_ADDR", "127.0.0.1:0"),
    ];
    let running = Running::start(&[], &open);
    running.line("which other machines may reach").await;
    let running = Running::start(&[], &[FREE_PORTS, &[(ROBYN_DEV, ON)]].concat());
    running.line("agent-sync started").await;
    running.line("not for production").await;
    running.line("nothing is synced").await;
    assert!(
        !running.output().contains("other machines"),
        "{}",
        running.output()
    );
}

#[tokio::test]
async fn a_rotated_key_costs_one_fetch_and_the_old_one_stops_counting() {
    let mut project = Project::new().await;
    let worker = started(&project.variables()).await;
    let old = project.token(USER);
    assert_eq!(worker.create_as(&old, body()).await.0, 200);
    assert_eq!(project.server.fetches(), 1, "the start's");
    project.rotate(SigningKey::rsa(0, "next"));
    let new = project.token(USER);
    // All at once, and the server takes its time.
    project.server.hold(true);
    let asked = join_all((0..50).map(|_| worker.create_as(&new, body())));
    let released = async {
        eventually("it is asked", || async {
            (project.server.fetches() == 2)
                .then_some(())
                .ok_or_else(|| project.server.fetches().to_string())
        })
        .await;
        // Who knows their key does not wait for others to learn theirs.
        assert_eq!(worker.create_as(&old, body()).await.0, 200);
        project.server.hold(false);
    };
    let (answers, ()) = tokio::join!(asked, released);
    assert!(
        answers.iter().all(|(status, _)| *status == 200),
        "{answers:?}"
    );
    assert_eq!(project.server.fetches(), 2);
    let (status, answer) = worker.create_as(&old, body()).await;
    assert_eq!(
        (status, &answer["detail"]),
        (401, &json!("No key of this project has signed the token"))
    );
    worker.stop().await;
}

#[tokio::test]
async fn while_keys_cannot_be_fetched_known_ones_count_and_others_are_told_to_come_back() {
    let project = Project::new().await;
    let elsewhere = JwksServer::start(Publishes::Keys(vec![SigningKey::elliptic("new").jwk])).await;
    for misbehaves in [
        Publishes::HangUp,
        Publishes::Status(500),
        Publishes::Status(404),
        Publishes::Redirect(format!("{}{PATH}", elsewhere.url())),
        Publishes::Text("<html>".to_owned()),
        Publishes::Text("[]".to_owned()),
        Publishes::Text(r#"{"keys": {}}"#.to_owned()),
        Publishes::Endless,
        Publishes::Silence,
    ] {
        project
            .server
            .publish(Publishes::Keys(vec![project.key.jwk.clone()]));
        let worker = started(&project.variables()).await;
        project.server.publish(misbehaves.clone());
        let unknown = SigningKey::elliptic("new").sign(&project.claims(USER, json!({})));
        let bytes = format!(
            "GET /assistants HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {unknown}\r\n\r\n"
        );
        let (status, head, answer) = exchange(worker.api, &bytes).await;
        assert!(
            status == 503 && head.contains("retry-after: "),
            "{misbehaves:?}: {head}"
        );
        assert!(
            answer.contains("cannot be fetched at the moment"),
            "{misbehaves:?}: {answer}"
        );
        assert_eq!(
            worker.create_as(&project.token(USER), body()).await.0,
            200,
            "{misbehaves:?}"
        );
        // Keys that are there will do.
        assert_eq!(request(worker.admin, "GET", "/ready", None).await.0, 200);
        worker.stop().await;
    }
    assert_eq!(elsewhere.fetches(), 0, "it followed a redirect");
}

#[tokio::test]
async fn a_worker_that_never_had_keys_is_not_ready_and_becomes_so_by_itself() {
    let project = Project::new().await;
    project.server.publish(Publishes::Status(502));
    let worker = TestWorker::start_with(&project.variables()).await;
    eventually("it says why it is not ready", || async {
        let (status, answer) = request(worker.admin, "GET", "/ready", None).await;
        let expected = format!(
            "{}{PATH}: it answered with status 502",
            project.server.url()
        );
        (status == 503 && answer.to_string().contains(&expected))
            .then_some(())
            .ok_or(answer.to_string())
    })
    .await;
    assert_eq!(worker.create_as(&project.token(USER), body()).await.0, 503);
    // No key could make these good.
    assert_eq!(worker.create_as("x", body()).await.0, 401);
    project
        .server
        .publish(Publishes::Keys(vec![project.key.jwk.clone()]));
    worker.ready().await;
    assert_eq!(worker.create_as(&project.token(USER), body()).await.0, 200);
    worker.stop().await;
}

#[tokio::test]
async fn it_is_said_why_there_are_no_keys() {
    let project = Project::new().await;
    for (misbehaves, says) in [
        (Publishes::Endless, "its answer is larger than 262144 bytes"),
        (
            Publishes::Redirect("/".to_owned()),
            "it answered with status 302",
        ),
        (Publishes::Text("{}".to_owned()), "its answer is no JWKS"),
        (Publishes::Silence, "no answer within 5 s"),
    ] {
        project.server.publish(misbehaves);
        let worker = TestWorker::start_with(&project.variables()).await;
        eventually("it says why it is not ready", || async {
            let (_, answer) = request(worker.admin, "GET", "/ready", None).await;
            let answer = answer.to_string();
            answer.contains(says).then_some(()).ok_or(answer)
        })
        .await;
        worker.stop().await;
    }
}

#[tokio::test]
async fn a_legacy_project_needs_no_published_keys() {
    let project = Project::with_secret().await;
    let token = project
        .secret
        .as_ref()
        .expect("a secret")
        .sign(&project.claims(USER, json!({})));
    for publishes in [Publishes::Status(404), Publishes::Keys(Vec::new())] {
        project.server.publish(publishes);
        let worker = started(&project.variables()).await;
        assert_eq!(worker.create_as(&token, body()).await.0, 200);
        worker.stop().await;
    }
    let worker = started(&[(SUPABASE_JWT_SECRET, SECRET)]).await;
    let before = project.server.fetches();
    assert_eq!(worker.create_as(&token, body()).await.0, 200);
    assert_eq!(worker.create_as(&project.token(USER), body()).await.0, 401);
    assert_eq!(project.server.fetches(), before);
    worker.stop().await;
}

#[tokio::test]
async fn nothing_of_a_token_and_nothing_secret_of_a_url_is_logged() {
    let project = Project::with_secret().await;
    let address = project.server.address;
    let jwks = format!("http://canary-user:canary%2Dpass@{address}{PATH}?apikey=canary-query");
    let variables = [
        FREE_PORTS,
        project.variables().as_slice(),
        &[
            (SUPABASE_JWKS_URL, jwks.as_str()),
            ("AGENT_SYNC_LOG", "trace"),
        ],
    ]
    .concat();
    let running = Running::start(&[], &variables);
    running.line("fetched the keys of callers").await;
    let (asked, authorization) = project.server.last_asked();
    assert_eq!(asked, format!("{PATH}?apikey=canary-query"));
    assert_eq!(authorization, "Basic Y2FuYXJ5LXVzZXI6Y2FuYXJ5LXBhc3M=");
    let api = running.api().await;
    let tokens = [
        project.token(USER),
        project.token_with(USER, json!({"exp": 1})),
        project.service_role(),
        SigningKey::elliptic("canary-kid").sign(&project.claims(USER, json!({}))),
    ];
    for token in &tokens {
        let bytes = format!(
            "GET /assistants HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\r\n"
        );
        exchange(api, &bytes).await;
    }
    project.server.publish(Publishes::HangUp);
    running.signal("-TERM");
    running.line("stopped").await;
    let output = running.output();
    let canaries = ["canary", SECRET, "user@example", "Y2FuYXJ5"];
    let parts = tokens.iter().flat_map(|token| token.split('.'));
    for secret in parts.chain(canaries) {
        assert!(!output.contains(secret), "{secret} in {output}");
    }
}

fn config(variables: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let owned = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::from_variables(&owned.collect())
}

#[test]
fn all_that_is_wrong_with_the_keys_is_said_at_once_and_no_secret_with_it() {
    let errors = config(&[
        (SUPABASE_URL, "canary.supabase.co"),
        (SUPABASE_JWKS_URL, "ftp://canary@host/"),
        (SUPABASE_JWT_SECRET, "canary"),
        (ALLOW_SERVICE_ROLE, "perhaps"),
        (ALLOW_ANONYMOUS, "perhaps"),
    ]);
    let errors = errors.expect_err("errors");
    assert_eq!(errors.0.len(), 5, "{errors}");
    assert!(!errors.to_string().contains("canary"), "{errors}");
    for (secret, says) in [
        ("sb_secret_canary-canary-canary-canary", "an API key"),
        ("eyJhbGciOiJIUzI1NiJ9.canary.canary-canary", "an API key"),
        ("-----BEGIN PUBLIC KEY-----canary-canary", "not a secret"),
        (
            r#"{"kty": "EC", "x": "canary", "y": "canary"}"#,
            "not a secret",
        ),
        ("canary-canary-canary-canary-31-b", "31 bytes"),
    ] {
        let secret = if says.starts_with("31") {
            &secret[..31]
        } else {
            secret
        };
        let error = config(&[(SUPABASE_JWT_SECRET, secret)])
            .expect_err(secret)
            .to_string();
        assert!(error.contains(says) && !error.contains("canary"), "{error}");
    }
    for url in [
        "https://canary@host",
        "https://host/?canary",
        "https://host/#canary",
    ] {
        let error = config(&[(SUPABASE_URL, url)]).expect_err(url).to_string();
        assert!(
            error.contains("neither a user") && !error.contains("canary"),
            "{error}"
        );
    }
}

#[test]
fn keys_and_issuer_follow_from_the_projects_url_however_it_is_pasted() {
    for url in [
        "https://ref.supabase.co",
        "https://ref.supabase.co/",
        "https://REF.supabase.co//",
        "https://ref.supabase.co/auth/v1",
        "https://ref.supabase.co/rest/v1/",
    ] {
        let keys = config(&[(SUPABASE_URL, url)]).expect(url).authentication;
        assert_eq!(
            keys.issuer.as_deref(),
            Some("https://ref.supabase.co/auth/v1")
        );
        let jwks = keys.jwks.expect("published").to_string();
        assert_eq!(
            jwks,
            "https://ref.supabase.co/auth/v1/.well-known/jwks.json"
        );
    }
    let keys = config(&[
        (SUPABASE_URL, "https://example.com/supabase"),
        (SUPABASE_JWKS_URL, "http://kong:8000/keys?a=canary"),
        (SUPABASE_JWT_SECRET, &"canary-".repeat(5)),
    ])
    .expect("valid")
    .authentication;
    assert_eq!(
        keys.issuer.as_deref(),
        Some("https://example.com/supabase/auth/v1")
    );
    assert_eq!(
        keys.jwks.as_ref().expect("published").uri(),
        "http://kong:8000/keys?a=canary"
    );
    assert!(!format!("{keys:?}").contains("canary"), "{keys:?}");
    let loopback = ([127, 0, 0, 1], 1).into();
    let warnings = keys.warnings(false, loopback);
    assert!(
        warnings.len() == 1 && warnings[0].contains("http://kong:8000/keys without encryption"),
        "{warnings:?}"
    );
    let keys = config(&[(SUPABASE_JWKS_URL, "http://127.0.0.1/keys")])
        .expect("valid")
        .authentication;
    let warnings = keys.warnings(false, loopback);
    assert!(
        keys.issuer.is_none()
            && warnings.len() == 1
            && warnings[0].contains("SUPABASE_URL is not set"),
        "{warnings:?}"
    );
}
