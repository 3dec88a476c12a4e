//! `/metrics`: each metric is well formed, is documented, and moves when what it tells of happens.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_sync::config::{MAX_REMOVALS, RESYNC_INTERVAL, ROBYN_DEV, SCOPE, UPSTREAM};
use futures::future::{BoxFuture, FutureExt, join_all};
use serde_json::json;
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::support::double::Double;
use crate::support::exposition::{Exposition, Format, Watch, lint, scrape};
use crate::support::proxy::Proxy;
use crate::support::worker::request;
use crate::support::{Front, Project, TestDatabase, TestWorker, eventually, uuid};

const ALL: (&str, &str) = (SCOPE, "all");

/// All labels that there are, and all their values. `None`: a status.
const LABELS: &[(&str, Option<&[&str]>)] = &[
    ("door", Some(&["pass", "change", "request"])),
    (
        "outcome",
        Some(&[
            "created", "updated", "skipped", "removed", "revoked", "held", "conflict", "busy",
            "failed",
        ]),
    ),
    ("kind", Some(&["startup", "resync"])),
    ("result", Some(&["success", "failure"])),
    ("store", Some(&["postgres", "langgraph", "memory"])),
    (
        "operation",
        Some(&[
            "observe", "write", "delete", "read", "create", "update", "info",
        ]),
    ),
    ("server", Some(&["api", "admin"])),
    (
        "route",
        Some(&[
            "/assistants",
            "/assistants/search",
            "/assistants/count",
            "/assistants/{id}",
            "/assistants/{id}/versions",
            "/assistants/{id}/latest",
            "/assistants/{id}/schemas",
            "/assistants/{id}/graph",
            "/ok",
            "/info",
            "upstream",
            "/live",
            "/ready",
            "/metrics",
            "/status",
            "/events",
            "/history",
            "other",
        ]),
    ),
    ("status", None),
    (
        "state",
        Some(&[
            "listening",
            "catching_up",
            "connecting",
            "polling_only",
            "idle",
            "busy",
            "failed",
            "conflict",
            "held",
            "synced",
            "removed",
        ]),
    ),
    ("pool", Some(&["worker", "access"])),
    ("version", Some(&[env!("CARGO_PKG_VERSION")])),
];

/// What is not there to move.
const CONSTANT: &[&str] = &[
    "agent_sync_build_info",
    "agent_sync_process_start_time_seconds",
];

/// The metrics that the README has in its table.
fn documented() -> BTreeSet<String> {
    let rows = include_str!("../README.md").lines();
    let names = rows.filter_map(|row| row.strip_prefix("| `agent_sync_")?.split(['`', '{']).next());
    names.map(|name| format!("agent_sync_{name}")).collect()
}

/// A worker that has everything there is a metric of.
async fn with_everything(db: &TestDatabase, project: &Project, upstream: &str) -> TestWorker {
    let own = [ALL, (RESYNC_INTERVAL, "1s"), (UPSTREAM, upstream)];
    let variables = [&project.variables()[..], &own].concat();
    TestWorker::start(db, &variables).await
}

#[tokio::test]
async fn all_of_it_passes_a_linter_in_both_formats_and_is_what_the_readme_says() {
    let db = TestDatabase::new().await;
    let (agent, project) = (db.agent("a").await, Project::new().await);
    let worker = with_everything(&db, &project, "http://127.0.0.1:1").await;
    let user = project.token(uuid(7));
    for (method, path) in [
        ("GET", format!("/assistants/{agent}")),
        ("GET", "/assistants/Robert'); drop table".to_owned()),
        ("PUT", format!("/assistants/{}/versions", "x".repeat(5000))),
        ("GET", "/threads/1".to_owned()),
        ("BREW", "/\u{7f}{}\"\\".to_owned()),
    ] {
        worker.request_as(&user, method, &path, None).await;
    }
    let mut watch = Watch::begin(worker.admin).await;
    watch
        .until("everything has happened once", |now| {
            now.value("agent_sync_doorbell_round_trip_seconds", &[])
                .is_some()
                && now.value("agent_sync_passes_total", &[("kind", "resync")]) > Some(0.0)
        })
        .await;
    for format in [Format::Classic, Format::OpenMetrics] {
        let text = scrape(worker.admin, format).await;
        assert_eq!(lint(&text, format, LABELS), Vec::<String>::new(), "{text}");
        let all = Exposition::parse(&text, format).expect("an exposition");
        assert_eq!(all.names(), documented(), "{format:?}");
    }
    let now = watch.look().await;
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    assert_eq!(now.value("agent_sync_build_info", &version), Some(1.0));
    worker.stop().await;
}

/// Who has no database has less to tell, and it is well formed, too.
#[tokio::test]
async fn a_worker_without_a_database_says_nothing_of_one() {
    let worker = TestWorker::start_with(&[]).await;
    worker.ready().await;
    for format in [Format::Classic, Format::OpenMetrics] {
        let text = scrape(worker.admin, format).await;
        assert_eq!(lint(&text, format, LABELS), Vec::<String>::new(), "{text}");
        for absent in [
            "database_up",
            "outbox",
            "listener",
            "pool_",
            "jwks",
            "streams",
        ] {
            assert!(!text.contains(&format!("agent_sync_{absent}")), "{absent}");
        }
        assert!(text.contains("agent_sync_ready 1\n"), "{text}");
    }
    worker.stop().await;
}

#[test]
fn the_linter_finds_what_it_is_for() {
    let family = |name: &str, kind: &str, samples: &str| {
        format!(
            "# HELP agent_sync_{name} Something or other.\n# TYPE agent_sync_{name} {kind}\n{samples}"
        )
    };
    let fine = family("fine", "gauge", "agent_sync_fine 1\n");
    assert_eq!(lint(&fine, Format::Classic, LABELS), Vec::<String>::new());
    let histogram = |buckets: &str| {
        let samples =
            format!("agent_sync_h_seconds_sum 1\nagent_sync_h_seconds_count 2\n{buckets}");
        family("h_seconds", "histogram", &samples)
    };
    let bucket =
        |le: &str, value: u32| format!("agent_sync_h_seconds_bucket{{le=\"{le}\"}} {value}\n");
    let whole = histogram(&[bucket("1.0", 1), bucket("+Inf", 2)].concat());
    assert_eq!(lint(&whole, Format::Classic, LABELS), Vec::<String>::new());
    for (bad, problem) in [
        (
            family("requests", "counter", "agent_sync_requests 1\n"),
            "counters end in _total",
        ),
        (
            family("up_total", "gauge", "agent_sync_up_total 1\n"),
            "counters end in _total",
        ),
        (family("Up", "gauge", "agent_sync_Up 1\n"), "lower case"),
        (
            family("wait_ms", "gauge", "agent_sync_wait_ms 1\n"),
            "no base unit",
        ),
        (
            family("wait_gauge", "gauge", "agent_sync_wait_gauge 1\n"),
            "a type or a suffix",
        ),
        (family("up", "untyped", "agent_sync_up 1\n"), "no type"),
        (family("up", "gauge", ""), "no samples"),
        (
            family("up", "gauge", "agent_sync_up 1\nagent_sync_up 1\n"),
            "a series twice",
        ),
        (
            family("up", "gauge", "agent_sync_down 1\n"),
            "not of family",
        ),
        (family("up", "gauge", "agent_sync_up NaN\n"), "NaN"),
        (
            family("up", "gauge", "agent_sync_up{id=\"1\"} 1\n"),
            "the label id",
        ),
        (
            family("up", "gauge", "agent_sync_up{door=\"/x\"} 1\n"),
            "the label door",
        ),
        (
            family("up", "gauge", "agent_sync_up{status=\"x\"} 1\n"),
            "the label status",
        ),
        (format!("{fine}{fine}"), "a family twice"),
        (
            fine.replace("Something or other.", "x"),
            "help is a sentence",
        ),
        (histogram(&bucket("1.0", 1)), "no whole histogram"),
        (
            histogram(&[bucket("1.0", 3), bucket("+Inf", 2)].concat()),
            "no whole histogram",
        ),
        (
            histogram(&[bucket("1.0", 1), bucket("+Inf", 1)].concat()),
            "no whole histogram",
        ),
        (format!("{fine}# EOF\n"), "EOF"),
        (format!("agent_sync_up 1\n{fine}"), "no family"),
    ] {
        let problems = lint(&bad, Format::Classic, LABELS);
        assert!(
            problems.iter().any(|found| found.contains(problem)),
            "{problem}: {problems:?}\n{bad}"
        );
    }
    let unit = family(
        "wait_seconds",
        "gauge",
        "agent_sync_wait_seconds 1\n# EOF\n",
    );
    let problems = lint(&unit, Format::OpenMetrics, LABELS);
    assert!(
        problems
            .iter()
            .any(|found| found.contains("the unit is not")),
        "{problems:?}"
    );
}

/// What a scenario has made move, and all that it has seen.
type Seen = (BTreeSet<String>, BTreeSet<String>);

/// Whatever there is a metric of happens in one of these, and nothing is believed to work that was not seen to move.
#[tokio::test]
async fn every_metric_moves() {
    let scenarios: [BoxFuture<'_, Seen>; 8] = [
        edits_fail_are_held_and_are_in_conflict().boxed(),
        changes_and_requests_wait().boxed(),
        the_database_goes_away_and_comes_back().boxed(),
        bells_are_missed().boxed(),
        passes_succeed_and_fail().boxed(),
        a_langgraph_server_is_written_to_and_goes_away().boxed(),
        a_stream_passes_through().boxed(),
        time_passes().boxed(),
    ];
    let (mut moved, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for (moves, sees) in join_all(scenarios).await {
        moved.extend(moves);
        seen.extend(sees);
    }
    assert_eq!(seen, documented(), "seen, and documented");
    moved.extend(CONSTANT.iter().map(|name| (*name).to_owned()));
    let still: Vec<_> = seen.difference(&moved).collect();
    assert!(still.is_empty(), "no scenario moves {still:?}");
}

async fn edits_fail_are_held_and_are_in_conflict() -> Seen {
    let db = TestDatabase::new().await;
    let worker = TestWorker::start(&db, &[ALL, (MAX_REMOVALS, "0"), (ROBYN_DEV, "true")]).await;
    let mut watch = Watch::begin(worker.admin).await;
    let synced = |outcome| [("door", "change"), ("outcome", outcome)];
    let delays = |now: &Exposition| now.value("agent_sync_change_delay_seconds_count", &[]);

    let agent = db.agent("a").await;
    watch
        .shows("agent_sync_syncs_total", &synced("created"), 1.0)
        .await;
    let prompted = |prompt: &str| format!("update public.agents set system_prompt = '{prompt}'");
    db.execute(&prompted("first")).await;
    let now = watch
        .shows("agent_sync_syncs_total", &synced("updated"), 1.0)
        .await;
    assert_eq!(delays(&now), Some(2.0));
    let sum = now.value("agent_sync_change_delay_seconds_sum", &[]);
    assert!(sum > Some(0.0) && sum < Some(120.0), "{sum:?}");
    watch
        .shows("agent_sync_agents", &[("state", "synced")], 1.0)
        .await;

    // As a request has it looked at.
    let body = json!({"graph_id": "agent", "metadata": {"supabase_agent_id": agent}});
    assert_eq!(worker.create(body).await.0, 200);
    let now = watch.look().await;
    let door = [("door", "request"), ("outcome", "skipped")];
    assert_eq!(now.value("agent_sync_syncs_total", &door), Some(1.0));
    let route = [
        ("server", "api"),
        ("route", "/assistants"),
        ("status", "200"),
    ];
    assert_eq!(
        now.value("agent_sync_http_requests_total", &route),
        Some(1.0)
    );

    // The table refuses it for a while. When it is tried again, it is not as if somebody had waited for so long.
    db.execute(
        "create function public.refuse() returns trigger language plpgsql as $$ begin raise exception 'not now'; end $$;
         create trigger refuse before update on langgraph_server.assistants for each row execute function public.refuse()",
    )
    .await;
    db.execute(&prompted("second")).await;
    watch
        .shows("agent_sync_agents", &[("state", "failed")], 1.0)
        .await;
    let now = watch.shows("agent_sync_outbox_retries", &[], 1.0).await;
    assert_eq!(delays(&now), Some(2.0));
    assert!(now.value("agent_sync_syncs_total", &synced("failed")) > Some(0.0));
    let writes = [("store", "postgres"), ("operation", "write")];
    assert!(now.value("agent_sync_store_errors_total", &writes) > Some(0.0));
    db.execute("drop function public.refuse cascade").await;
    let now = watch
        .shows("agent_sync_syncs_total", &synced("updated"), 2.0)
        .await;
    assert_eq!(delays(&now), Some(2.0));
    assert_eq!(db.prompt(agent).await.as_deref(), Some("second"));

    db.execute(&format!("delete from public.agents where id = '{agent}'"))
        .await;
    watch
        .shows("agent_sync_agents", &[("state", "held")], 1.0)
        .await;
    db.execute(&format!(
        "insert into langgraph_server.assistants (id, graph_id, config, metadata) values ('{0}', 'agent', '{{}}', '{{\"owner\": \"somebody\"}}');
         insert into public.agents (id, name, status) values ('{0}', 'b', 'active')",
        uuid(2)
    ))
    .await;
    watch
        .shows("agent_sync_agents", &[("state", "conflict")], 1.0)
        .await;
    let now = watch.look().await;
    for outcome in ["held", "conflict"] {
        assert_eq!(
            now.value("agent_sync_syncs_total", &synced(outcome)),
            Some(1.0),
            "{outcome}"
        );
    }
    assert_eq!(delays(&now), Some(2.0), "neither has reached an assistant");
    worker.stop().await;
    (watch.moved, watch.seen)
}

async fn changes_and_requests_wait() -> Seen {
    let db = TestDatabase::new().await;
    let agent = db.agent("a").await;
    let worker = TestWorker::start(&db, &[ALL, (ROBYN_DEV, "true")]).await;
    db.drained().await;
    let mut watch = Watch::begin(worker.admin).await;
    let holder = db.hold_agent(agent).await;
    db.execute("update public.agents set system_prompt = 'waits'")
        .await;
    watch
        .until("a change waits, and a connection with it", |now| {
            now.value("agent_sync_outbox_changes", &[]) == Some(1.0)
                && now.value("agent_sync_outbox_oldest_age_seconds", &[]) > Some(0.0)
                && now.value("agent_sync_pool_connections", &[("state", "busy")]) > Some(0.0)
        })
        .await;
    holder.batch_execute("rollback").await.expect("let go");
    let now = watch.shows("agent_sync_outbox_changes", &[], 0.0).await;
    assert_eq!(
        now.value("agent_sync_outbox_oldest_age_seconds", &[]),
        Some(0.0)
    );

    // More requests than there are connections.
    let locker = db.connect().await;
    let lock = "begin; lock table langgraph_server.assistants in access exclusive mode";
    locker.batch_execute(lock).await.expect("locked");
    let path = format!("/assistants/{agent}");
    let asking = join_all((0..10).map(|_| worker.request("GET", &path, None)));
    let looking = async {
        watch
            .until("requests wait for connections", |now| {
                now.value("agent_sync_pool_waiting", &[]) > Some(0.0)
            })
            .await;
        // They keep nobody from saying that the database answers.
        let (status, body) = request(worker.admin, "GET", "/ready", None).await;
        assert_eq!(status, 200, "{body}");
        watch.shows("agent_sync_database_up", &[], 1.0).await;
        locker.batch_execute("rollback").await.expect("let go");
    };
    tokio::join!(asking, looking);
    worker.stop().await;
    (watch.moved, watch.seen)
}

async fn the_database_goes_away_and_comes_back() -> Seen {
    let (db, elsewhere) = (TestDatabase::new().await, TestDatabase::new().await);
    let worker = TestWorker::start(&db, &[ALL]).await;
    let mut watch = Watch::begin(worker.admin).await;
    let listening = [("state", "listening")];
    watch
        .shows("agent_sync_listener_state", &listening, 1.0)
        .await;
    let name = db.name();
    let away = |allowed: bool| {
        format!(
            "alter database {name} allow_connections {allowed};
             select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'"
        )
    };
    elsewhere.execute(&away(false)).await;
    let now = watch
        .until("it is said that the database is away", |now| {
            now.value("agent_sync_database_up", &[]) == Some(0.0)
                && now.value("agent_sync_ready", &[]) == Some(0.0)
                && now.value("agent_sync_listener_state", &[("state", "connecting")]) == Some(1.0)
        })
        .await;
    for unknown in ["agent_sync_outbox_changes", "agent_sync_agents"] {
        assert_eq!(now.value(unknown, &[]), None, "{unknown}");
    }
    elsewhere.execute(&away(true)).await;
    let back = watch
        .until("all is well again", |now| {
            now.value("agent_sync_database_up", &[]) == Some(1.0)
                && now.value("agent_sync_ready", &[]) == Some(1.0)
                && now.value("agent_sync_listener_state", &listening) == Some(1.0)
                && now.value("agent_sync_outbox_changes", &[]).is_some()
        })
        .await;
    let changes = |now: &Exposition| now.value("agent_sync_listener_changes_total", &[]);
    assert!(changes(&back) >= changes(&now), "{:?}", changes(&back));
    worker.stop().await;
    (watch.moved, watch.seen)
}

async fn bells_are_missed() -> Seen {
    let db = TestDatabase::new().await;
    let worker = TestWorker::start(&db, &[ALL]).await;
    let mut watch = Watch::begin(worker.admin).await;
    let listening = [("state", "listening")];
    watch
        .shows("agent_sync_listener_state", &listening, 1.0)
        .await;
    // Something falls due soon, so the loop is going to look by itself; and then it finds something else.
    db.execute(
        "insert into agent_sync.outbox (source, key, due_at) values ('agents', gen_random_uuid(), clock_timestamp() + interval '2 s');
         notify agent_sync",
    )
    .await;
    let watched = Mutex::new(watch);
    eventually("an unannounced change is found", || async {
        // Another one when the last is gone: while there are some, the loop does not wait.
        if db
            .count("agent_sync.outbox where due_at = '-infinity'")
            .await
            == 0
        {
            db.execute(
                "insert into agent_sync.outbox (source, key, changed_at)
                 values ('agents', gen_random_uuid(), clock_timestamp() - interval '1 minute')",
            )
            .await;
        }
        let now = watched.lock().await.look().await;
        let missed = now.value("agent_sync_missed_doorbells_total", &[]);
        (missed > Some(0.0))
            .then_some(())
            .ok_or(format!("{missed:?}"))
    })
    .await;
    worker.stop().await;
    let watch = watched.into_inner();
    (watch.moved, watch.seen)
}

async fn passes_succeed_and_fail() -> Seen {
    let db = TestDatabase::new().await;
    let agent = db.agent("a").await;
    let worker = TestWorker::start(&db, &[ALL, (RESYNC_INTERVAL, "200ms")]).await;
    let mut watch = Watch::begin(worker.admin).await;
    let passes = |kind, result| [("kind", kind), ("result", result)];
    let now = watch
        .until("two passes got through", |now| {
            now.value("agent_sync_passes_total", &passes("resync", "success")) >= Some(2.0)
        })
        .await;
    assert_eq!(
        now.value("agent_sync_passes_total", &passes("startup", "success")),
        Some(1.0)
    );
    let last = |now: &Exposition| {
        now.value(
            "agent_sync_last_successful_pass_timestamp_seconds",
            &[("kind", "resync")],
        )
    };
    let past = since_1970() - last(&now).expect("a time");
    assert!((-1.0..60.0).contains(&past), "{past} s ago");
    let count = [("kind", "resync")];
    assert!(now.value("agent_sync_pass_duration_seconds_count", &count) >= Some(2.0));
    // Users, and their assistants, are nowhere to be found: the pass cannot say what is to become of them.
    db.execute("alter table public.agents rename to mislaid")
        .await;
    let failed = watch
        .until("a pass failed", |now| {
            now.value("agent_sync_passes_total", &passes("resync", "failure")) >= Some(1.0)
        })
        .await;
    db.execute("alter table public.mislaid rename to agents")
        .await;
    watch
        .until("another got through", |now| last(now) > last(&failed))
        .await;
    assert!(db.assistant(agent).await.is_some());
    worker.stop().await;
    (watch.moved, watch.seen)
}

async fn a_langgraph_server_is_written_to_and_goes_away() -> Seen {
    let (db, server) = (TestDatabase::new().await, Double::start().await);
    let url = server.url();
    let store = [
        ("AGENT_SYNC_STORE", "langgraph"),
        ("LANGGRAPH_API_URL", url.as_str()),
    ];
    let worker = TestWorker::start(&db, &[&store[..], &[ALL]].concat()).await;
    let mut watch = Watch::begin(worker.admin).await;
    let of = |operation| [("store", "langgraph"), ("operation", operation)];
    let agent = db.agent("a").await;
    watch
        .shows("agent_sync_store_calls_total", &of("create"), 1.0)
        .await;
    db.execute("update public.agents set system_prompt = 'new'")
        .await;
    let now = watch
        .shows("agent_sync_store_calls_total", &of("update"), 1.0)
        .await;
    for operation in ["create", "update", "read"] {
        assert_eq!(
            now.value("agent_sync_store_errors_total", &of(operation)),
            Some(0.0),
            "{operation}"
        );
    }
    assert_eq!(now.value("agent_sync_store_up", &[]), Some(1.0));
    server.refuse();
    db.execute("update public.agents set system_prompt = 'newer'")
        .await;
    let now = watch.shows("agent_sync_store_up", &[], 0.0).await;
    assert!(now.value("agent_sync_store_errors_total", &of("read")) > Some(0.0));
    server.listen().await;
    watch.shows("agent_sync_store_up", &[], 1.0).await;
    eventually("the last edit is there", || async {
        let prompt = server.prompt(agent);
        (prompt.as_deref() == Some("newer"))
            .then_some(())
            .ok_or(format!("{prompt:?}"))
    })
    .await;
    // It had to wait, and counts.
    watch
        .shows("agent_sync_change_delay_seconds_count", &[], 3.0)
        .await;
    worker.stop().await;
    (watch.moved, watch.seen)
}

async fn a_stream_passes_through() -> Seen {
    let front = Front::start().await;
    let mut watch = Watch::begin(front.worker.admin).await;
    let (mut client, mut upstream) = front.streaming().await;
    let now = watch.look().await;
    assert_eq!(now.value("agent_sync_http_streams", &[]), Some(1.0));
    let route = [("server", "api"), ("route", "upstream"), ("status", "200")];
    assert_eq!(
        now.value("agent_sync_http_requests_total", &route),
        Some(1.0)
    );
    upstream.send("0\r\n\r\n").await;
    client.takes("0\r\n\r\n").await;
    watch.shows("agent_sync_http_streams", &[], 0.0).await;
    let Front { worker, .. } = front;
    worker.stop().await;
    (watch.moved, watch.seen)
}

async fn time_passes() -> Seen {
    let project = Project::new().await;
    let began = since_1970();
    let worker = TestWorker::start_with(&project.variables()).await;
    worker.ready().await;
    let mut watch = Watch::begin(worker.admin).await;
    let now = watch.look().await;
    let age = |now: &Exposition| now.value("agent_sync_jwks_age_seconds", &[]);
    watch
        .until("the keys grow older", |later| age(later) > age(&now))
        .await;
    let started = now
        .value("agent_sync_process_start_time_seconds", &[])
        .expect("a time");
    assert!(
        (began - 1.0..since_1970() + 1.0).contains(&started),
        "{started}"
    );
    let memory = |now: &Exposition| now.value("agent_sync_process_resident_memory_bytes", &[]);
    let large = vec![1_u8; 64 << 20];
    let later = watch.look().await;
    assert!(large.iter().all(|byte| *byte == 1));
    assert!(memory(&later) > Some(64e6), "{:?}", memory(&later));
    worker.stop().await;
    (watch.moved, watch.seen)
}

fn since_1970() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("after 1970").as_secs_f64()
}

/// What a tool's edit is spread into has waited since that edit.
#[tokio::test]
async fn an_edit_of_a_tool_counts_from_when_it_was_made() {
    let db = TestDatabase::new().await;
    let agent = db.agent("a").await;
    let worker = TestWorker::start(&db, &[ALL]).await;
    db.drained().await;
    worker.stop().await;
    let tool = uuid(5);
    db.execute(&format!(
        "insert into public.mcp_tools (id, tool_name, endpoint_url) values ('{tool}', 'search', 'https://mcp.example/');
         insert into public.agent_mcp_tools (agent_id, mcp_tool_id) values ('{agent}', '{tool}');
         delete from agent_sync.outbox;
         insert into agent_sync.outbox (source, key, changed_at) values
           ('mcp_tools', '{tool}', clock_timestamp() - interval '1 minute'), ('mcp_tools', '{tool}', clock_timestamp())"
    ))
    .await;
    // Nothing but the change loop looks at it.
    let worker = TestWorker::start(&db, &[(SCOPE, "none")]).await;
    let mut watch = Watch::begin(worker.admin).await;
    let count = "agent_sync_change_delay_seconds_count";
    let now = watch.shows(count, &[], 1.0).await;
    let waited = now.value("agent_sync_change_delay_seconds_sum", &[]);
    assert!(waited > Some(59.0), "{waited:?}");
    worker.stop().await;
}

/// Connections that look alive and carry nothing, as behind a router that was restarted.
#[tokio::test]
async fn a_scrape_is_answered_soon_while_the_database_says_nothing() {
    let db = TestDatabase::new().await;
    let proxy = Proxy::before(db.port()).await;
    let url = db.url_by_way_of(proxy.address);
    let worker = TestWorker::start_with(&[("DATABASE_URL", url.as_str()), ALL]).await;
    worker.ready().await;
    let mut watch = Watch::begin(worker.admin).await;
    watch.shows("agent_sync_database_up", &[], 1.0).await;
    // Nothing is known for longer than a moment.
    proxy.stall();
    let looking = watch.shows("agent_sync_database_up", &[], 0.0);
    let looked = tokio::time::timeout(Duration::from_secs(30), looking).await;
    looked.expect("soon");
    worker.stop().await;
}

#[tokio::test]
async fn counts_of_requests_go_by_routes_and_never_by_what_clients_say() {
    let worker = TestWorker::start_with(&[(ROBYN_DEV, "true")]).await;
    let id = Uuid::new_v4();
    for (method, path, route, status) in [
        (
            "POST",
            "/assistants/search".to_owned(),
            "/assistants/search",
            "422",
        ),
        (
            "GET",
            format!("/assistants/{id}"),
            "/assistants/{id}",
            "404",
        ),
        (
            "DELETE",
            format!("/assistants/{id}"),
            "/assistants/{id}",
            "404",
        ),
        (
            "POST",
            format!("/assistants/{id}/versions"),
            "/assistants/{id}/versions",
            "422",
        ),
        ("GET", format!("/assistants/{id}/nothing"), "other", "404"),
        ("GET", "/ok".to_owned(), "/ok", "200"),
        ("POST", "/ok".to_owned(), "/ok", "405"),
        ("GET", format!("/{id}"), "other", "404"),
    ] {
        let labels = [("server", "api"), ("route", route), ("status", status)];
        let count = |now: Exposition| {
            now.value("agent_sync_http_requests_total", &labels)
                .unwrap_or(0.0)
        };
        let mut watch = Watch::begin(worker.admin).await;
        let before = count(watch.look().await);
        worker.request(method, &path, None).await;
        assert_eq!(
            count(watch.look().await),
            before + 1.0,
            "{method} {path} {labels:?}"
        );
    }
    let text = scrape(worker.admin, Format::Classic).await;
    assert!(!text.contains(&id.to_string()), "{text}");
    assert!(
        text.contains(
            r#"agent_sync_http_request_duration_seconds_count{server="admin",route="/metrics"}"#
        ),
        "{text}"
    );
    worker.stop().await;
}

/// The alerts, as Prometheus would load them. (YAML of so plain a kind that ten lines read it.)
struct Alert {
    name: String,
    expression: String,
    lines: Vec<String>,
}

fn alerts() -> Vec<Alert> {
    let file = include_str!("../deploy/prometheus-alerts.yaml");
    let mut alerts: Vec<Alert> = Vec::new();
    for line in file.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("- alert: ") {
            alerts.push(Alert {
                name: name.to_owned(),
                expression: String::new(),
                lines: Vec::new(),
            });
        } else if let Some(alert) = alerts.last_mut() {
            if let Some(expression) = line.strip_prefix("expr: ") {
                alert.expression = expression.to_owned();
            }
            alert.lines.push(line.to_owned());
        }
    }
    alerts
}

#[test]
fn the_five_alerts_go_by_metrics_and_labels_that_there_are_and_say_what_to_do() {
    let (alerts, metrics) = (alerts(), documented());
    let names: Vec<&str> = alerts.iter().map(|alert| alert.name.as_str()).collect();
    assert_eq!(names.len(), 5, "{names:?}");
    for Alert {
        name,
        expression,
        lines,
    } in &alerts
    {
        let has = |key: &str| {
            lines
                .iter()
                .any(|line| line.starts_with(key) && line.len() > key.len())
        };
        for key in ["for: ", "severity: ", "summary: ", "description: "] {
            assert!(has(key), "{name}: no {key}");
        }
        // What to do is a command, or a place to look at.
        let description = lines.iter().find(|line| line.starts_with("description: "));
        assert!(description.is_some_and(|text| text.contains('`')), "{name}");
        let words = |text: &str| -> Vec<String> {
            let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            text.split(|c| !is_word(c)).map(str::to_owned).collect()
        };
        let named: Vec<String> = words(&lines.join(" "))
            .into_iter()
            .filter(|word| word.starts_with("agent_sync_"))
            .collect();
        for metric in &named {
            assert!(metrics.contains(metric), "{name}: there is no {metric}");
        }
        assert!(
            words(expression).iter().any(|word| metrics.contains(word)),
            "{name}: {expression}"
        );
        let braces = expression
            .split('{')
            .skip(1)
            .filter_map(|rest| rest.split('}').next());
        for matcher in braces.flat_map(|all| all.split(',')) {
            let (label, values) = matcher.split_once('=').expect("a matcher");
            let values = values.trim_matches(['~', '"']).split('|');
            let known = LABELS.iter().find(|(known, _)| *known == label);
            let (_, known) = known.unwrap_or_else(|| panic!("{name}: there is no label {label}"));
            for value in values {
                let is_known = known.is_none_or(|known| known.contains(&value));
                assert!(is_known, "{name}: {label} is never {value}");
            }
        }
    }
}
