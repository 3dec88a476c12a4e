//! 1,000 random edits over all five tables, some in long overlapping transactions, with the worker running. Afterwards
//! every assistant equals what an independent mapping says, and another pass changes nothing.

use agent_sync::config::{DATABASE_URL, SCOPE};
use tokio_postgres::Client;

use crate::support::pgbouncer::Pgbouncer;
use crate::support::{TestDatabase, TestWorker};

const EDITORS: u64 = 8;
const EDITS: u64 = 125;

/// A random but repeatable sequence (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }

    /// One of these.
    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[usize::try_from(self.roll(of.len() as u64)).expect("small")]
    }
}

/// A row of the table, whichever it is: rows come and go while we choose.
fn any(table: &str, dice: &mut Dice) -> String {
    format!(
        "(select id from public.{table} order by id offset {} limit 1)",
        dice.roll(24)
    )
}

fn edit(dice: &mut Dice) -> String {
    let n = dice.roll(1_000_000);
    match dice.roll(20) {
        0..=5 => {
            let column = dice.pick(&["name", "description", "system_prompt", "graph_id"]);
            format!(
                "update public.agents set {column} = 'v{n}' where id = {}",
                any("agents", dice)
            )
        }
        6 => format!(
            "update public.agents set sampling_params = '{{\"temperature\": {n}, \"top_p\": null}}' where id = {}",
            any("agents", dice)
        ),
        7 => {
            let change = dice.pick(&[
                "status = 'disabled'",
                "status = 'draft'",
                "deleted_at = now()",
            ]);
            format!(
                "update public.agents set {change} where id = {}",
                any("agents", dice)
            )
        }
        8 | 9 => format!(
            "update public.agents set status = 'active', deleted_at = null where id = {}",
            any("agents", dice)
        ),
        10 => format!(
            "update public.agents set organization_id = {} where id = {}",
            any("organizations", dice),
            any("agents", dice)
        ),
        11 => format!(
            "insert into public.agents (name, status, engine_id) values ('new {n}', 'active', {})",
            any("global_ai_engines", dice)
        ),
        12 => format!(
            "delete from public.agents where id = {}",
            any("agents", dice)
        ),
        13 => format!(
            "update public.agents set engine_id = {} where id = {}",
            any("global_ai_engines", dice),
            any("agents", dice)
        ),
        14 => format!(
            "insert into public.agent_mcp_tools select a, t from (select {} as a, {} as t) as l
             where a is not null and t is not null on conflict do nothing",
            any("agents", dice),
            any("mcp_tools", dice)
        ),
        15 => format!(
            "delete from public.agent_mcp_tools where mcp_tool_id = {} and agent_id = {}",
            any("mcp_tools", dice),
            any("agents", dice)
        ),
        16 => format!(
            "update public.mcp_tools set endpoint_url = 'https://{}.example', auth_required = {} where id = {}",
            dice.roll(4),
            dice.pick(&["true", "false"]),
            any("mcp_tools", dice)
        ),
        17 => match dice.roll(3) {
            0 => format!(
                "delete from public.mcp_tools where id = {}",
                any("mcp_tools", dice)
            ),
            _ => format!(
                "insert into public.mcp_tools (tool_name, endpoint_url) values ('t{n}', 'https://{}.example')",
                dice.roll(4)
            ),
        },
        18 => format!(
            "update public.ai_models set runtime_model_name = 'm{n}' where id = {}",
            any("ai_models", dice)
        ),
        _ => format!(
            "update public.global_ai_engines set language_model_id = {} where id = {}",
            any("ai_models", dice),
            any("global_ai_engines", dice)
        ),
    }
}

/// Makes its share of the edits: each alone, or several in a transaction that stays open while others come and go.
/// An edit that the database refuses (two editors in each other's way) is undone by it, and counts as not made.
async fn editor(client: Client, seed: u64) -> u64 {
    let mut dice = Dice(seed);
    let mut made = 0;
    let mut left = EDITS;
    while left > 0 {
        let together = if dice.roll(4) == 0 {
            dice.roll(8).min(left - 1) + 1
        } else {
            1
        };
        left -= together;
        client.batch_execute("begin").await.expect("begun");
        let mut good = 0;
        for _ in 0..together {
            let statement = edit(&mut dice);
            match client.batch_execute(&statement).await {
                Ok(()) => good += 1,
                Err(e)
                    if e.code()
                        .is_some_and(|code| ["40P01", "23503"].contains(&code.code())) =>
                {
                    good = 0;
                    break;
                }
                Err(e) => panic!("{statement}: {e:?}"),
            }
            // Others get their turn while this transaction is open.
            tokio::task::yield_now().await;
        }
        let end = if good == 0 || dice.roll(10) == 0 {
            "rollback"
        } else {
            "commit"
        };
        client.batch_execute(end).await.expect("ended");
        if end == "commit" {
            made += good;
        }
    }
    made
}

/// The seed of this run; `SEED=n` replays another.
fn seed() -> u64 {
    std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(20_261_122)
}

/// Edits with all editors at once, and returns how many edits were committed.
async fn edit_at_random(db: &TestDatabase, seed: u64) -> u64 {
    let mut editors = Vec::new();
    for n in 0..EDITORS {
        editors.push(tokio::spawn(editor(
            db.connect().await,
            seed.wrapping_mul(1_000_003) + n,
        )));
    }
    let mut made = 0;
    for editor in editors {
        made += editor.await.expect("an editor");
    }
    println!("seed {seed}: {made} of {} edits committed", EDITORS * EDITS);
    assert!(made > EDITORS * EDITS / 2, "hardly anything was edited");
    made
}

/// Everything is as it should be, and stays so when all is looked at once more.
async fn nothing_is_left_to_do(db: &TestDatabase) {
    let before = db.versions().await;
    TestWorker::start(db, &[(SCOPE, "all")]).await.stop().await;
    assert_eq!(db.versions().await, before, "another pass changes nothing");
    assert_eq!(db.differences().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_thousand_random_edits_end_with_every_assistant_equal_to_its_agent() {
    let db = TestDatabase::new().await;
    db.execute(agent_sync::demo::DATA).await;
    let worker = TestWorker::start(&db, &[(SCOPE, "all")]).await;
    edit_at_random(&db, seed()).await;
    db.converged().await;
    worker.stop().await;
    nothing_is_left_to_do(&db).await;
}

#[tokio::test]
async fn two_workers_one_of_them_behind_a_pooler_converge_too() {
    let db = TestDatabase::new().await;
    db.execute(agent_sync::demo::DATA).await;
    let pooler = Pgbouncer::before(&db).await;
    let direct = TestWorker::start(&db, &[(SCOPE, "all")]).await;
    let pooled = TestWorker::start_with(&[(DATABASE_URL, &pooler.url), (SCOPE, "all")]).await;
    pooled.ready().await;
    edit_at_random(&db, seed() + 1).await;
    db.converged().await;
    direct.stop().await;
    // Now everything comes through the pooler, by polling.
    edit_at_random(&db, seed() + 2).await;
    db.converged().await;
    pooled.stop().await;
    nothing_is_left_to_do(&db).await;
}
