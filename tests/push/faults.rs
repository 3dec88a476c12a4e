//! Random edits, while the server, the workers, and their way to the database fail at random: in the end every assistant is what its agent
//! says, and none was written without need.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use super::{Setting, variables};
use crate::support::TestWorker;
use crate::support::binary::{FREE_PORTS, Running};
use crate::support::database::reconnect;
use crate::support::dice::Dice;
use crate::support::double::{Double, Fault};
use crate::support::edits::edit_at_random;
use crate::support::proxy::Proxy;

const EDITORS: u64 = 3;
const EDITS: u64 = 60;

/// How much goes wrong with the server, and with each worker.
const FAULTS: u64 = 40;
const FAULTS_OF_A_WORKER: u64 = 5;

/// A worker process, and its way to the database.
struct Victim {
    running: Running,
    proxy: Proxy,
    variables: Vec<(String, String)>,
}

impl Victim {
    async fn start(setting: &Setting) -> Self {
        let proxy = Proxy::before(setting.db.port()).await;
        let database = setting.db.url_by_way_of(proxy.address);
        let (database, url) = (format!("{database}?sslmode=disable"), setting.server.url());
        let own = [
            ("DATABASE_URL", database.as_str()),
            ("AGENT_SYNC_MAX_REMOVALS", "unlimited"),
        ];
        let all = own.into_iter().chain(variables(&url));
        let all: Vec<_> = all
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Self {
            running: run(&all),
            proxy,
            variables: all,
        }
    }

    async fn suffer(&mut self, mut dice: Dice, kills: bool) {
        for _ in 0..FAULTS_OF_A_WORKER {
            tokio::time::sleep(dice.under(500)).await;
            match dice.roll(4) {
                0 if kills => {
                    self.running.signal("-KILL");
                    self.running.ended().await;
                    self.running = run(&self.variables);
                }
                1 => {
                    self.running.signal("-STOP");
                    tokio::time::sleep(dice.under(500)).await;
                    self.running.signal("-CONT");
                }
                _ => _ = self.proxy.cut(),
            }
        }
    }

    async fn stop(mut self) {
        self.running.signal("-TERM");
        let code = self.running.ended().await;
        assert_eq!(code, Some(0), "{}", self.running.output());
    }
}

fn run(all: &[(String, String)]) -> Running {
    let own: Vec<(&str, &str)> = all
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    Running::start(&[], &[&own, FREE_PORTS].concat())
}

/// What befalls the server. Where it is only moody, nothing looks like a restart, after which workers look at everything and so make up for
/// whatever went wrong before.
async fn misbehave(server: &Double, mut dice: Dice, moody: bool) {
    for _ in 0..FAULTS {
        tokio::time::sleep(dice.under(120)).await;
        let lasts = dice.under(400);
        let method = dice.pick(&["", "GET", "POST", "PATCH", "PATCH", "DELETE"]);
        let once = |fault| server.next(method, "/assistants", fault);
        let internal = || "Internal Server Error".to_owned();
        match dice.roll(if moody { 10 } else { 18 }) {
            0 | 1 => once(Fault::AnswerAfter(500, vec![], internal())),
            2 => server.some(
                method,
                "/assistants",
                0,
                4,
                Fault::Answer(500, vec![], internal()),
            ),
            3 => once(Fault::status(408)),
            4 => once(Fault::AnswerAfter(408, vec![], String::new())),
            5 => once(Fault::retry_after(429, 1)),
            6 => once(Fault::AnotherId),
            7 => once(Fault::Later(lasts)),
            8 => once(Fault::AnswerLater(lasts)),
            9 => {
                server.always(method, "/assistants", Fault::detail(403, "not now"));
                tokio::time::sleep(lasts).await;
                server.mend();
            }
            10 | 11 => once(Fault::ResetBefore),
            12 | 13 => once(Fault::ResetAfter),
            14 => once(Fault::status(503)),
            15 => server.cut(),
            16 => {
                server.refuse();
                tokio::time::sleep(lasts).await;
                server.listen().await;
            }
            _ => server.lose_all(),
        }
    }
    server.mend();
}

/// What an assistant says but for when.
fn said(version: &Value) -> BTreeMap<&str, Value> {
    let mut said: BTreeMap<&str, Value> = ["graph_id", "name", "description", "config", "metadata"]
        .map(|field| (field, version[field].clone()))
        .into();
    if let Some(Value::Object(metadata)) = said.get_mut("metadata") {
        metadata.remove("synced_at");
        metadata.retain(|_, value| !value.is_null());
    }
    said
}

async fn bear(seed: u64) {
    let setting = Setting::new().await;
    let Setting { db, server } = &setting;
    db.execute(agent_sync::demo::DATA).await;
    db.execute(
        "insert into public.agents (name, status, system_prompt)
         select 'agent ' || n, 'active', 'You are ' || n from generate_series(1, 60) as n",
    )
    .await;
    let foreign = Uuid::new_v4();
    server.put(
        foreign,
        json!({"graph_id": "theirs", "metadata": {"owner": "mallory"}}),
    );
    let mut one = Victim::start(&setting).await;
    let mut other = Victim::start(&setting).await;
    let dice = |n: u64| Dice::nth(1_000 + n, seed);
    // In one seed there is nothing but the outbox to make up for what goes wrong; in another processes are killed, and everything is lost.
    let moody = seed.is_multiple_of(2);
    let kills = !moody && dice(0).roll(2) == 0;
    if !kills {
        for victim in [&one, &other] {
            victim.running.line("Startup sync summary").await;
        }
    }
    let ((), (), (), edited) = tokio::join!(
        misbehave(server, dice(1), moody),
        one.suffer(dice(2), kills),
        other.suffer(dice(3), kills),
        edit_at_random(&db.superuser_url, seed, EDITORS, EDITS, 60),
    );
    println!(
        "seed {seed}: {} edits, {} requests, {} of them with a fault",
        edited.committed,
        server.log().len(),
        server.faults()
    );
    reconnect(&db.superuser_url)
        .await
        .batch_execute("update public.agents set description = 'the last word' where hashtext(id::text) % 3 = 0")
        .await
        .expect("the last edit");
    // What a worker that was killed held is nobody's for up to half a minute.
    let converging = async {
        loop {
            let mut others = server.assistants();
            others.retain(|assistant| assistant["assistant_id"] != json!(foreign));
            db.copy(others).await;
            if db.is_converged(&[]).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(120), converging)
        .await
        .is_err()
    {
        for victim in [&one, &other] {
            println!("--- a worker:\n{}", victim.running.output());
        }
        panic!("seed {seed}: {:?}", db.is_converged(&[]).await);
    }
    one.stop().await;
    other.stop().await;

    server.forget_log();
    let url = server.url();
    let unlimited = [("AGENT_SYNC_MAX_REMOVALS", "unlimited")];
    let worker = TestWorker::start(db, &[&variables(&url)[..], &unlimited].concat()).await;
    worker.stop().await;
    let writes: Vec<String> = server
        .writes()
        .iter()
        .map(|seen| format!("{seen:?}"))
        .collect();
    assert!(
        writes.is_empty(),
        "seed {seed}: another pass found something to do: {writes:?}"
    );
    for history in server.histories() {
        for pair in history.windows(2) {
            assert_ne!(
                said(&pair[0]),
                said(&pair[1]),
                "seed {seed}: a version for nothing"
            );
        }
    }
    assert!(server.versions(foreign) <= 1, "not ours, and touched");
}

#[tokio::test]
async fn every_assistant_on_the_server_equals_its_agent_after_faults_of_all_kinds() {
    let seeds: Vec<u64> = match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().expect("a number")],
        Err(_) => (1..=6).collect(),
    };
    futures::future::join_all(seeds.into_iter().map(|seed| Box::pin(bear(seed)))).await;
}
