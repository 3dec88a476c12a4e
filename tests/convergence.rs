//! 1,000 random edits over all five tables, some in long overlapping transactions, with the worker running. Afterwards
//! every assistant equals what an independent mapping says, and another pass changes nothing.

use agent_sync::config::{DATABASE_URL, MAX_REMOVALS, SCOPE};

use crate::support::edits::{Edited, edit_at_random};
use crate::support::pgbouncer::Pgbouncer;
use crate::support::{TestDatabase, TestWorker};

/// The guard before removals has tests of its own.
const ALL: &[(&str, &str)] = &[(SCOPE, "all"), (MAX_REMOVALS, "unlimited")];

const EDITORS: u64 = 8;
const EDITS: u64 = 125;

/// The seed of this run; `SEED=n` replays another.
fn seed() -> u64 {
    std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(20_261_122)
}

/// Edits with all editors at once.
async fn edit(db: &TestDatabase, seed: u64) {
    let Edited { committed, unknown } =
        edit_at_random(&db.superuser_url, seed, EDITORS, EDITS, 0).await;
    println!(
        "seed {seed}: {committed} of {} edits committed",
        EDITORS * EDITS
    );
    assert_eq!(unknown, 0, "no connection was lost");
    assert!(
        committed > EDITORS * EDITS / 2,
        "hardly anything was edited"
    );
}

/// Everything is as it should be, and stays so when all is looked at once more.
async fn nothing_is_left_to_do(db: &TestDatabase) {
    let before = db.versions().await;
    TestWorker::start(db, ALL).await.stop().await;
    assert_eq!(db.versions().await, before, "another pass changes nothing");
    assert_eq!(db.differences().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_thousand_random_edits_end_with_every_assistant_equal_to_its_agent() {
    let db = TestDatabase::new().await;
    db.execute(agent_sync::demo::DATA).await;
    let worker = TestWorker::start(&db, ALL).await;
    edit(&db, seed()).await;
    db.converged().await;
    worker.stop().await;
    nothing_is_left_to_do(&db).await;
}

#[tokio::test]
async fn two_workers_one_of_them_behind_a_pooler_converge_too() {
    let db = TestDatabase::new().await;
    db.execute(agent_sync::demo::DATA).await;
    let pooler = Pgbouncer::before(&db).await;
    let direct = TestWorker::start(&db, ALL).await;
    let pooled =
        TestWorker::start_with(&[&[(DATABASE_URL, pooler.url.as_str())], ALL].concat()).await;
    pooled.ready().await;
    edit(&db, seed() + 1).await;
    db.converged().await;
    direct.stop().await;
    // Now everything comes through the pooler, by polling.
    edit(&db, seed() + 2).await;
    db.converged().await;
    pooled.stop().await;
    nothing_is_left_to_do(&db).await;
}
