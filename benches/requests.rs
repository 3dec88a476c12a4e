//! `POST /assistants` against what the same Postgres needs for the bare minimum of the work: `pgbench`, at the same number of
//! connections.
//!
//! `cargo bench --bench requests -- [--quick]`. The floor of an agent that is in step is the caller's transaction (role and claims
//! taken, the agent selected under row-level security) and one query for the ledger's entry with its assistant; of one that has no
//! assistant yet, one select of the agent and one upsert of what it says. Statements are prepared there. Clients, server and
//! database share the machine; what the clients take of it is told. How far the floor can be reached while promises are kept, and by a
//! server that speaks HTTP, is told, too.

mod support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use agent_sync::demo::SCHEMA;
use agent_sync::demo::postgres::Postgres;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use support::least;
use support::report::{Line, Report, Target};
use support::server::{SECRET, Server};
use support::{AnyError, Arguments, connect, cpu, data};

const AGENTS: usize = 10_000;
const CONNECTIONS: [usize; 3] = [1, 16, 64];
/// A member of every organization.
const MEMBER: &str = "11111111-2222-4333-8444-555555555555";

/// Agents are numbered, so that pgbench can name them.
const NUMBERED: &str = "create sequence public.numbers;
    alter table public.agents alter column id
      set default ('a0000000-0000-4000-8000-' || lpad(nextval('public.numbers')::text, 12, '0'))::uuid;";

const IN_STEP: &str = r#"\set n random(1, 10000)
begin;
select set_config('role', 'authenticated', true), set_config('request.jwt.claims', '{"sub": "11111111-2222-4333-8444-555555555555", "role": "authenticated"}', true);
select id, organization_id, name, description, status, deleted_at, graph_id, engine_id, system_prompt, assistant_tool_ids, sampling_params from public.agents where id = ('a0000000-0000-4000-8000-' || lpad(:n::text, 12, '0'))::uuid;
end;
select l.owner, l.state, l.content_hash, l.row_hash, a.* from agent_sync.ledger as l join langgraph_server.assistants as a on a.id = l.assistant_id::text where l.agent_id = ('a0000000-0000-4000-8000-' || lpad(:n::text, 12, '0'))::uuid;
"#;

const FIRST_TIME: &str = r#"\set i :i + 1
\set n (:i - 1) * :step + :client_id + 1
select id, organization_id, name, description, status, deleted_at, graph_id, engine_id, system_prompt, assistant_tool_ids, sampling_params from public.agents where id = ('a0000000-0000-4000-8000-' || lpad(:n::text, 12, '0'))::uuid;
insert into langgraph_server.assistants as a (id, graph_id, config, context, metadata, name, description, version, created_at, updated_at) select id::text, graph_id, jsonb_build_object('configurable', jsonb_build_object('system_prompt', system_prompt, 'supabase_organization_id', organization_id) || sampling_params), '{}', jsonb_build_object('supabase_agent_id', id, 'supabase_organization_id', organization_id, 'owner', '11111111-2222-4333-8444-555555555555'), name, description, 1, now(), now() from public.agents where id = ('a0000000-0000-4000-8000-' || lpad(:n::text, 12, '0'))::uuid on conflict (id) do update set config = excluded.config, metadata = excluded.metadata, name = excluded.name, description = excluded.description, version = a.version + 1, updated_at = now();
"#;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), AnyError> {
    let quick = Arguments::of_this_process().quick;
    let duration = Duration::from_secs(if quick { 1 } else { 5 });
    let postgres = Postgres::start(&[
        "fsync=on",
        "shared_buffers=512MB",
        "max_wal_size=4GB",
        "max_connections=200",
    ])
    .await?;
    postgres.execute("postgres", "create database ours").await?;
    postgres.execute("ours", SCHEMA).await?;
    postgres.execute("ours", NUMBERED).await?;
    let url = postgres.url("ours");
    let client = connect(&url).await?;
    let rows = data(u32::try_from(AGENTS)?).replace("truncate agent_sync.outbox;", "");
    client.batch_execute(&rows).await?;
    let member = format!(
        "insert into public.organization_members select id, '{MEMBER}' from public.organizations;
         insert into public.organization_members select id, gen_random_uuid() from public.organizations, generate_series(1, 20)"
    );
    client.batch_execute(&member).await?;

    let mut report = Report::new("requests");
    first_time(&mut report, &postgres, &client, quick).await?;

    // Everybody's: as a startup pass makes them.
    let server = Server::start(&url, "all")?;
    server.ready().await?;
    client.batch_execute("vacuum analyze").await?;
    let looks = least::looks(&url, MEMBER).await?;
    let token = token();
    let mut requests = (1..=AGENTS).cycle().map(|n| create(&number(n), &token));
    // Prepared, and warm.
    load(&server, 16, Until::Elapsed(duration / 2), &mut requests).await?;
    for connections in CONNECTIONS {
        let floor = pgbench(
            &postgres,
            "prepared",
            IN_STEP,
            connections,
            &format!("-T{}", duration.as_secs()),
        )?;
        let ours = load(
            &server,
            connections,
            Until::Elapsed(duration),
            &mut requests,
        )
        .await?;
        let looks = format!("\\set n random(1, {AGENTS})\n{looks}\\set i 1\n");
        let extent = format!("-T{}", duration.as_secs());
        let least = pgbench(&postgres, "simple", &looks, connections, &extent)?;
        let work = "agent in step";
        tell(&mut report, work, connections, &ours, &least, &floor, 0.7);
        let mut senseless = std::iter::repeat_with(|| senseless(&token));
        let http = load(
            &server,
            connections,
            Until::Elapsed(duration / 3),
            &mut senseless,
        )
        .await?;
        // One after the other on the same processors.
        let both = 1.0 / (1.0 / least.rate + 1.0 / http.rate);
        report.line(Line {
            work: format!("POST /assistants, {work}, {connections} connections: rate: that SQL, and a request that asks for nothing ({:.0}/s)", http.rate),
            ours: format!("{both:.0}/s"),
            floor: Some(format!("{:.0}/s", floor.rate)),
            figure: Some(both / floor.rate),
            target: None,
        });
    }
    drop(server);
    report.finish()?;
    drop(client);
    postgres.stop();
    Ok(())
}

/// Each agent once, in a database in which none has an assistant.
async fn first_time(
    report: &mut Report,
    postgres: &Postgres,
    client: &tokio_postgres::Client,
    quick: bool,
) -> Result<(), AnyError> {
    let server = Server::start(&postgres.url("ours"), "none")?;
    server.ready().await?;
    let (looks, token) = (least::looks(&postgres.url("ours"), MEMBER).await?, token());
    for connections in CONNECTIONS {
        // Those whose numbers pgbench comes to as well, and in its order.
        let each = if quick { 1024 } else { 4096 };
        let each = if connections == 1 { each / 4 } else { each };
        let per_client = each / connections;
        let mut requests = (1..=per_client * connections).map(|n| create(&number(n), &token));
        let ours = load(&server, connections, Until::Used, &mut requests).await?;
        let clear = "truncate langgraph_server.assistants, agent_sync.ledger; truncate agent_sync.outbox;
             update public.agents set langgraph_assistant_id = null where langgraph_assistant_id is not null";
        client.batch_execute(clear).await?;
        let floor = pgbench(
            postgres,
            "prepared",
            FIRST_TIME,
            connections,
            &format!("-t{per_client}"),
        )?;
        client.batch_execute(clear).await?;
        let least = pgbench(
            postgres,
            "simple",
            &format!(
                "\\set n :i * :step + :client_id + 1\n{looks}\\set i :i + 1\n{}",
                least::FIRST
            ),
            connections,
            &format!("-t{per_client}"),
        )?;
        client.batch_execute(clear).await?;
        let work = "agent without an assistant";
        tell(report, work, connections, &ours, &least, &floor, 0.6);
    }
    drop(server);
    client
        .batch_execute(
            "truncate langgraph_server.assistants, agent_sync.ledger;
             update public.agents set langgraph_assistant_id = null;
             truncate agent_sync.outbox; delete from agent_sync.settings",
        )
        .await?;
    Ok(())
}

fn number(n: usize) -> String {
    format!("a0000000-0000-4000-8000-{n:012}")
}

fn tell(
    report: &mut Report,
    work: &str,
    connections: usize,
    ours: &Load,
    promised: &Floor,
    floor: &Floor,
    least: f64,
) {
    let work = format!("POST /assistants, {work}, {connections} connections");
    report.line(Line {
        work: format!("{work}: rate"),
        ours: format!("{:.0}/s", ours.rate),
        floor: Some(format!("{:.0}/s", floor.rate)),
        figure: Some(ours.rate / floor.rate),
        target: Some(Target::AtLeast(least)),
    });
    report.line(Line {
        work: format!("{work}: rate: the least in SQL that keeps our promises"),
        ours: format!("{:.0}/s", promised.rate),
        floor: Some(format!("{:.0}/s", floor.rate)),
        figure: Some(promised.rate / floor.rate),
        target: None,
    });
    for (percent, target) in [(50, (connections == 1).then_some(1.3)), (99, None)] {
        let (mine, its) = (
            percentile(&ours.times, percent),
            percentile(&floor.times, percent),
        );
        report.line(Line {
            work: format!("{work}: p{percent}"),
            ours: format!("{mine:.2} ms"),
            floor: Some(format!("{its:.2} ms")),
            figure: Some(mine / its),
            target: target.map(Target::AtMost),
        });
    }
    println!(
        "    of two cores: agent-sync {:.2}, its clients {:.2}, pgbench {:.2}",
        ours.server, ours.clients, floor.clients
    );
}

/// In milliseconds, of sorted times.
fn percentile(times: &[f64], percent: usize) -> f64 {
    times
        .get(times.len().saturating_sub(1) * percent / 100)
        .copied()
        .unwrap_or(f64::NAN)
}

/// What came of some requests. Times in milliseconds, sorted; processors by process, in cores.
struct Load {
    rate: f64,
    times: Vec<f64>,
    server: f64,
    clients: f64,
}

struct Floor {
    rate: f64,
    times: Vec<f64>,
    clients: f64,
}

enum Until {
    Elapsed(Duration),
    /// All agents have been asked for.
    Used,
}

async fn load(
    server: &Server,
    connections: usize,
    until: Until,
    requests: &mut impl Iterator<Item = Request>,
) -> Result<Load, AnyError> {
    let (mut shares, before) = (
        (0..connections).map(|_| Vec::new()).collect::<Vec<_>>(),
        (cpu(server.child.id())?, cpu(std::process::id())?),
    );
    let per_client = match until {
        Until::Elapsed(_) => 1000,
        Until::Used => usize::MAX,
    };
    for n in 0..per_client {
        for share in &mut shares {
            match requests.next() {
                Some(request) => share.push(request),
                None => break,
            }
        }
        if shares.last().is_none_or(|share| share.len() <= n) {
            break;
        }
    }
    let (mut clients, started) = (JoinSet::new(), Instant::now());
    for share in shares {
        let (api, limit) = (
            server.api,
            match until {
                Until::Elapsed(duration) => Some(started + duration),
                Until::Used => None,
            },
        );
        clients.spawn(async move { ask(api, share, limit).await.map_err(|e| e.to_string()) });
    }
    let mut times = Vec::new();
    while let Some(asked) = clients.join_next().await {
        times.extend(asked??);
    }
    let took = started.elapsed().as_secs_f64();
    times.sort_by(f64::total_cmp);
    Ok(Load {
        rate: times.len() as f64 / took,
        times,
        server: (cpu(server.child.id())? - before.0).as_secs_f64() / took,
        clients: (cpu(std::process::id())? - before.1).as_secs_f64() / took,
    })
}

/// One client, on one connection. Without a limit, each request once.
async fn ask(
    api: SocketAddr,
    requests: Vec<Request>,
    limit: Option<Instant>,
) -> Result<Vec<f64>, AnyError> {
    let mut stream = TcpStream::connect(api).await?;
    stream.set_nodelay(true)?;
    let (mut times, mut answer, mut buffer) = (Vec::new(), Vec::new(), vec![0; 64 * 1024]);
    let mut rounds = 0;
    'rounds: loop {
        for request in &requests {
            let asked = Instant::now();
            if limit.is_some_and(|limit| asked > limit) {
                break 'rounds;
            }
            stream.write_all(request.text.as_bytes()).await?;
            answer.clear();
            loop {
                let read = stream.read(&mut buffer).await?;
                if read == 0 {
                    return Err("the connection was closed".into());
                }
                answer.extend_from_slice(&buffer[..read]);
                if is_whole(&answer) {
                    break;
                }
            }
            times.push(asked.elapsed().as_secs_f64() * 1000.0);
            let [status, part] = request.answer.map(str::as_bytes);
            if !answer.starts_with(status) || !contains(&answer, part) {
                return Err(String::from_utf8_lossy(&answer).into());
            }
        }
        rounds += 1;
        if limit.is_none() || rounds > 100_000 {
            break;
        }
    }
    Ok(times)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn is_whole(answer: &[u8]) -> bool {
    let Some(head) = answer.windows(4).position(|end| end == b"\r\n\r\n") else {
        return false;
    };
    let text = String::from_utf8_lossy(&answer[..head]);
    let length = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    length.is_some_and(|length| answer.len() >= head + 4 + length)
}

/// A request, and what its answer begins with, and has in it.
struct Request {
    text: String,
    answer: [&'static str; 2],
}

fn create(agent: &str, token: &str) -> Request {
    let body =
        format!(r#"{{"graph_id": "agent", "metadata": {{"supabase_agent_id": "{agent}"}}}}"#);
    let text = format!(
        "POST /assistants HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    Request {
        text,
        answer: ["HTTP/1.1 200", "\"supabase_agent_id\""],
    }
}

/// One that is refused when the token is verified and before anybody asks the database.
fn senseless(token: &str) -> Request {
    let text =
        format!("GET /assistants/1 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
    Request {
        text,
        answer: ["HTTP/1.1 422", "Invalid assistant ID"],
    }
}

fn token() -> String {
    let claims = serde_json::json!({
        "sub": MEMBER, "role": "authenticated", "aud": "authenticated", "exp": 4_000_000_000_u64, "iat": 1_700_000_000,
        "email": "member@example.com", "phone": "", "session_id": "6d1c1c8e-8a2b-4a0e-9a54-3d0e2f8f6a11", "is_anonymous": false,
        "aal": "aal1", "amr": [{"method": "password", "timestamp": 1_700_000_000}],
        "app_metadata": {"provider": "email", "providers": ["email"]}, "user_metadata": {"name": "A Member", "email_verified": true},
    });
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap_or_default()
}

/// Seconds of processor that a process has taken, as Linux tells it.
/// Of the processes that this one has waited for.
fn children_cpu() -> Result<f64, AnyError> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .ok_or("no stat")?
        .1
        .split(' ')
        .collect();
    Ok((fields[14].parse::<f64>()? + fields[15].parse::<f64>()?) / 100.0)
}

fn pgbench(
    postgres: &Postgres,
    protocol: &str,
    script: &str,
    connections: usize,
    extent: &str,
) -> Result<Floor, AnyError> {
    let directory = Directory::new()?;
    let file = directory.0.join("script.sql");
    std::fs::write(&file, script)?;
    let (clients, threads) = (connections.to_string(), connections.min(2).to_string());
    let before = children_cpu()?;
    let started = Instant::now();
    let output = Command::new("pgbench")
        .args(["-n", "-M", protocol, "-l", extent])
        .args(["-D", "i=0", "-D", &format!("step={connections}")])
        .args(["-c", &clients, "-j", &threads])
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &postgres.port().to_string(),
            "-U",
            "postgres",
        ])
        .arg("-f")
        .arg(&file)
        .arg("ours")
        .current_dir(&directory.0)
        .output()?;
    let took = started.elapsed().as_secs_f64();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let rate = said
        .lines()
        .find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok())
        .ok_or("no tps")?;
    let mut times = Vec::new();
    for entry in std::fs::read_dir(&directory.0)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "sql") {
            continue;
        }
        for line in std::fs::read_to_string(path)?.lines() {
            let micros = line.split(' ').nth(2).ok_or("no time")?;
            times.push(micros.parse::<f64>()? / 1000.0);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(Floor {
        rate,
        times,
        clients: (children_cpu()? - before) / took,
    })
}

/// For pgbench's logs; gone when dropped.
struct Directory(PathBuf);

impl Directory {
    fn new() -> std::io::Result<Self> {
        let id = uuid::Uuid::new_v4().simple();
        let directory: &Path = &std::env::temp_dir().join(format!("agent-sync-bench-{id}"));
        std::fs::create_dir(directory)?;
        Ok(Self(directory.to_owned()))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
