//! What good clients notice of an attack on the API: while it lasts, they sync agents by `POST /assistants` and probe the
//! admin server, on a new connection each time, and every answer must be the right one.
//!
//! `cargo bench --bench attack -- [seconds]` for each attack (10 unless told); it needs 4,096 file descriptors. Fails when
//! one answer is wrong, or an endless body is not cut off. The times are only printed: attackers, server and database share
//! the machine.

mod support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use agent_sync::demo::SCHEMA;
use agent_sync::demo::postgres::Postgres;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use support::server::{SECRET, Server};
use support::{AnyError, connect, data, peak_memory};

const AGENTS: u32 = 1000;
const SLOWLORIS: usize = 500;
const IDLE: usize = 1000;
/// Of one client, in all.
const ENDLESS: u64 = 10_000_000_000;
/// What may have been sent when an endless body is cut off: the limit, what is read of the rest so that the answer is seen,
/// and the buffers in between.
const CUT_OFF: u64 = 64 * 1024 * 1024;
const BAD_CLIENTS: usize = 32;
/// A second.
const BAD_REQUESTS: usize = 10_000;

/// A member of every organization.
const MEMBER: &str = "11111111-2222-4333-8444-555555555555";

/// How good clients prove who they are; and what bad ones send, which nobody sees before its signature is checked.
static GOOD: LazyLock<String> = LazyLock::new(|| token(SECRET));
static BAD: LazyLock<String> =
    LazyLock::new(|| token("another-secret-with-as-many-bytes-as-needed"));

fn token(secret: &str) -> String {
    let claims = serde_json::json!({
        "sub": MEMBER, "role": "authenticated", "aud": "authenticated", "exp": 4_000_000_000_u64,
        "app_metadata": {"provider": "email"}, "user_metadata": {"name": "x".repeat(500)},
    });
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    let token = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key);
    format!("authorization: Bearer {}", token.unwrap_or_default())
}

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let seconds: u64 = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(10);
    let postgres = Postgres::start(&["shared_buffers=256MB"]).await?;
    postgres.execute("postgres", "create database app").await?;
    postgres.execute("app", SCHEMA).await?;
    let url = postgres.url("app");
    let client = connect(&url).await?;
    client
        .batch_execute(&data(AGENTS).replace("truncate agent_sync.outbox;", ""))
        .await?;
    let member = format!(
        "insert into public.organization_members select id, '{MEMBER}' from public.organizations"
    );
    client.batch_execute(&member).await?;
    let agents: Vec<String> = client
        .query("select id::text from public.agents", &[])
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    let server = Server::start(&url, "none")?;
    server.ready().await?;

    let scene = Arc::new(Scene {
        api: server.api,
        admin: server.admin,
        agents,
        bad_requests: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        wrong: AtomicU64::new(0),
        longest_body: AtomicU64::new(0),
    });
    println!(
        "{:<34} {:>17} {:>17} {:>17} {:>9}",
        "p50 / p99 in ms", "POST /assistants", "GET /live", "GET /ready", "peak"
    );
    let duration = Duration::from_secs(seconds);
    let mut good = 0;
    for (name, attacks) in [
        ("warming up", &[][..]),
        ("undisturbed", &[]),
        ("500 connections dripping heads", &[Attack::Slowloris]),
        ("1,000 idle connections", &[Attack::Idle]),
        ("an endless body", &[Attack::Endless]),
        ("bad tokens", &[Attack::BadRequests]),
        (
            "all together",
            &[
                Attack::Slowloris,
                Attack::Idle,
                Attack::Endless,
                Attack::BadRequests,
            ],
        ),
        ("undisturbed again", &[]),
    ] {
        let mut attackers = JoinSet::new();
        for attack in attacks {
            attack.begin(&scene, &mut attackers);
        }
        // Until the attack stands.
        sleep(Duration::from_secs(if attacks.is_empty() { 0 } else { 2 })).await;
        let before = scene.bad_requests.load(Ordering::Relaxed);
        let (creates, live, ready) = tokio::try_join!(
            scene.creates(duration),
            scene.probes("/live", duration),
            scene.probes("/ready", duration),
        )?;
        let bad = scene.bad_requests.load(Ordering::Relaxed) - before;
        attackers.shutdown().await;
        good += creates.len() + live.len() + ready.len();
        println!(
            "{name:<34} {:>17} {:>17} {:>17} {:>6} MB{}",
            percentiles(creates),
            percentiles(live),
            percentiles(ready),
            peak_memory(&server.child)?,
            if bad > 0 {
                format!("  {} bad requests/s", bad / seconds)
            } else {
                String::new()
            }
        );
    }
    let [refused, wrong, longest] = [&scene.refused, &scene.wrong, &scene.longest_body]
        .map(|count| count.load(Ordering::Relaxed));
    println!(
        "{good} good requests answered right; {refused} bad ones 503, {wrong} answered neither 4xx nor 503; \
         of an endless body at most {} KB were taken",
        longest / 1024
    );
    drop(server);
    postgres.stop();
    if wrong > 0 || longest > CUT_OFF {
        return Err("expected bad requests to be refused, and endless bodies to be cut off".into());
    }
    Ok(())
}

struct Scene {
    api: SocketAddr,
    admin: SocketAddr,
    agents: Vec<String>,
    bad_requests: AtomicU64,
    refused: AtomicU64,
    wrong: AtomicU64,
    longest_body: AtomicU64,
}

impl Scene {
    async fn creates(&self, duration: Duration) -> Result<Vec<Duration>, AnyError> {
        let (started, mut times) = (Instant::now(), Vec::new());
        for agent in self.agents.iter().cycle() {
            if started.elapsed() > duration {
                break;
            }
            let body = format!(r#"{{"metadata": {{"supabase_agent_id": "{agent}"}}}}"#);
            let asked = Instant::now();
            let (status, answer) = exchange(
                self.api,
                &post(&format!("{}\r\nconnection: close", *GOOD), &body),
            )
            .await?;
            times.push(asked.elapsed());
            if status != 200 || !answer.contains(&format!(r#""assistant_id":"{agent}""#)) {
                return Err(format!("a good client was told: {status} {answer}").into());
            }
            sleep(Duration::from_millis(2)).await;
        }
        Ok(times)
    }

    async fn probes(&self, path: &str, duration: Duration) -> Result<Vec<Duration>, AnyError> {
        let (started, mut times) = (Instant::now(), Vec::new());
        while started.elapsed() < duration {
            let asked = Instant::now();
            let (status, answer) = exchange(self.admin, &get(path)).await?;
            times.push(asked.elapsed());
            if status != 200 {
                return Err(format!("a probe was told: {status} {answer}").into());
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(times)
    }
}

#[derive(Clone, Copy)]
enum Attack {
    Slowloris,
    Idle,
    Endless,
    BadRequests,
}

impl Attack {
    fn begin(self, scene: &Arc<Scene>, attackers: &mut JoinSet<()>) {
        let clients = match self {
            Self::Slowloris => SLOWLORIS,
            Self::Idle => IDLE,
            Self::Endless => 1,
            Self::BadRequests => BAD_CLIENTS,
        };
        for _ in 0..clients {
            let scene = scene.clone();
            attackers.spawn(async move {
                loop {
                    // Whoever is thrown out comes back.
                    if let Ok(mut stream) = TcpStream::connect(scene.api).await {
                        let _ = self.attack(&scene, &mut stream).await;
                    }
                    sleep(Duration::from_millis(100)).await;
                }
            });
        }
    }

    /// Until it is thrown out.
    async fn attack(self, scene: &Scene, stream: &mut TcpStream) -> std::io::Result<()> {
        match self {
            Self::Slowloris => {
                stream.write_all(b"POST /assistants HTTP/1.1\r\n").await?;
                let (mut reader, mut writer) = stream.split();
                let mut byte = [0];
                loop {
                    tokio::select! {
                        _ = reader.read(&mut byte) => return Ok(()),
                        () = sleep(Duration::from_secs(1)) => writer.write_all(b"x: y\r\n").await?,
                    }
                }
            }
            Self::Idle => {
                stream.read_u8().await?;
            }
            Self::Endless => {
                let head = format!(
                    "POST /assistants HTTP/1.1\r\nhost: x\r\n{}\r\ntransfer-encoding: chunked\r\n\r\n",
                    *GOOD
                );
                stream.write_all(head.as_bytes()).await?;
                let chunk = format!("10000\r\n{}\r\n", "x".repeat(65536));
                let mut sent = 0;
                while sent < ENDLESS && stream.write_all(chunk.as_bytes()).await.is_ok() {
                    sent += 65536;
                    scene.longest_body.fetch_max(sent, Ordering::Relaxed);
                }
            }
            Self::BadRequests => {
                let request = post(&BAD, r#"{"name": "no graph"}"#);
                let mut ticks =
                    interval(Duration::from_secs(1) * BAD_CLIENTS as u32 / BAD_REQUESTS as u32);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
                let mut answer = [0; 4096];
                loop {
                    ticks.tick().await;
                    stream.write_all(request.as_bytes()).await?;
                    // An answer is far smaller than a packet.
                    let length = stream.read(&mut answer).await?;
                    match answer[..length].strip_prefix(b"HTTP/1.1 ") {
                        Some([b'4', ..]) => &scene.bad_requests,
                        Some([b'5', b'0', b'3', ..]) => &scene.refused,
                        _ if length == 0 => return Ok(()),
                        _ => &scene.wrong,
                    }
                    .fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
}

fn post(headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST /assistants HTTP/1.1\r\nhost: x\r\n{headers}\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

/// Status and body.
async fn exchange(address: SocketAddr, request: &str) -> Result<(u16, String), AnyError> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let body = answer
        .split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned());
    Ok((
        status.ok_or(format!("no answer: {answer:?}"))?,
        body.unwrap_or_default(),
    ))
}

fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1000.0;
    format!("{:.1} / {:.1}", at(50), at(99))
}
