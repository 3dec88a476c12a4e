//! Random edits of all source tables, as several people make them at once: alone, many in a transaction that stays open
//! while others come and go, taken back, refused by the database, or cut off.

use tokio::task::JoinSet;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};

use super::database::reconnect;
use super::dice::Dice;

/// What became of edits.
#[derive(Debug, Default, Clone, Copy)]
pub struct Edited {
    pub committed: u64,
    /// The connection went before the answer to the commit came: they may have been made, or not.
    pub unknown: u64,
}

/// One transaction of an editor's.
struct Plan {
    edits: Vec<String>,
    commit: bool,
}

/// Why a transaction did not come to its end.
enum Stopped {
    /// Two editors in each other's way.
    Refused,
    /// The connection is gone.
    Lost { unknown: u64 },
}

/// Edits with this many editors at once, each making this many edits. With a pause of up to so many milliseconds after
/// each transaction: 0 for none.
pub async fn edit_at_random(
    url: &str,
    seed: u64,
    editors: u64,
    edits: u64,
    pause_ms: u64,
) -> Edited {
    let mut all = JoinSet::new();
    for n in 0..editors {
        let (url, dice) = (url.to_owned(), Dice::nth(n, seed));
        all.spawn(async move { editor(&url, dice, edits, pause_ms).await });
    }
    let mut sum = Edited::default();
    while let Some(edited) = all.join_next().await {
        let edited = edited.expect("an editor");
        sum.committed += edited.committed;
        sum.unknown += edited.unknown;
    }
    sum
}

/// Rolls the same dice whatever becomes of its edits, so that a seed always means the same ones.
async fn editor(url: &str, mut dice: Dice, edits: u64, pause_ms: u64) -> Edited {
    let mut edited = Edited::default();
    let mut client = None;
    let mut left = edits;
    while left > 0 {
        let plan = Plan::roll(&mut dice, &mut left);
        if pause_ms > 0 {
            tokio::time::sleep(dice.under(pause_ms)).await;
        }
        let mut connection = match client.take() {
            Some(connection) => connection,
            None => reconnect(url).await,
        };
        match plan.carry_out(&mut connection).await {
            Ok(committed) => edited.committed += committed,
            Err(Stopped::Refused) => {}
            Err(Stopped::Lost { unknown }) => {
                edited.unknown += unknown;
                continue;
            }
        }
        client = Some(connection);
    }
    edited
}

impl Plan {
    /// Takes from what is left to be made: one edit, or up to eight together.
    fn roll(dice: &mut Dice, left: &mut u64) -> Self {
        let together = if dice.roll(4) == 0 {
            dice.roll(8).min(*left - 1) + 1
        } else {
            1
        };
        *left -= together;
        Self {
            edits: (0..together).map(|_| edit(dice)).collect(),
            commit: dice.roll(10) > 0,
        }
    }

    /// Returns how many edits were committed.
    async fn carry_out(&self, client: &mut Client) -> Result<u64, Stopped> {
        let lost = |_: Error| Stopped::Lost { unknown: 0 };
        // Editors that are in each other's way should find that out soon.
        client
            .batch_execute("begin; set local deadlock_timeout = '20ms'")
            .await
            .map_err(lost)?;
        for edit in &self.edits {
            if let Err(e) = client.batch_execute(edit).await {
                if is_lost(&e) {
                    return Err(lost(e));
                }
                // A deadlock; or what the edit refers to is gone since it was chosen.
                let refused = [
                    &SqlState::T_R_DEADLOCK_DETECTED,
                    &SqlState::FOREIGN_KEY_VIOLATION,
                ];
                assert!(
                    e.code().is_some_and(|code| refused.contains(&code)),
                    "{edit}: {e:?}"
                );
                client.batch_execute("rollback").await.map_err(lost)?;
                return Err(Stopped::Refused);
            }
            // Others get their turn while this transaction is open.
            tokio::task::yield_now().await;
        }
        if !self.commit {
            client.batch_execute("rollback").await.map_err(lost)?;
            return Ok(0);
        }
        let edits = self.edits.len() as u64;
        match client.batch_execute("commit").await {
            Ok(()) => Ok(edits),
            Err(e) if is_lost(&e) => Err(Stopped::Lost { unknown: edits }),
            Err(e) => panic!("commit: {e:?}"),
        }
    }
}

/// The connection is gone: without a word, or because the server said that it ends it (class 57, operator intervention).
fn is_lost(error: &Error) -> bool {
    error
        .code()
        .is_none_or(|code| code.code().starts_with("57P"))
}

/// A row of the table, whichever it is: rows come and go while we choose.
fn any(table: &str, dice: &mut Dice) -> String {
    format!(
        "(select id from public.{table} order by id
          offset {} % (select greatest(count(*), 1) from public.{table}) limit 1)",
        dice.roll(1_000)
    )
}

/// One edit: a statement, or several that belong together.
fn edit(dice: &mut Dice) -> String {
    match dice.roll(40) {
        0..=19 => edit_agent(dice),
        20..=34 => edit_around_agents(dice),
        35 => edit_in_bulk(dice),
        36 | 37 => {
            let agent = any("agents", dice);
            let (first, second) = (dice.roll(1_000), dice.roll(1_000));
            format!(
                "update public.agents set name = 'first {first}' where id = {agent};
                 update public.agents set name = 'second {second}' where id = {agent}"
            )
        }
        38 => format!(
            "savepoint s; {}; rollback to s; release s",
            edit_agent(dice)
        ),
        _ if dice.roll(8) > 0 => insert_agents(dice),
        // Rarely: after a truncate everything is looked at, which makes up for whatever went wrong before.
        _ => {
            let tables = [
                "agent_mcp_tools",
                "mcp_tools cascade",
                "agents cascade",
                "global_ai_engines cascade",
                "ai_models cascade",
            ];
            // Not for good: what follows should find something to edit.
            format!(
                "truncate public.{}; {}; {}",
                dice.pick(&tables),
                insert_agents(dice),
                insert_tools(dice)
            )
        }
    }
}

fn edit_agent(dice: &mut Dice) -> String {
    let n = dice.roll(1_000_000);
    let change = match dice.roll(20) {
        0..=6 => {
            let column = dice.pick(&["name", "description", "system_prompt", "graph_id"]);
            format!("{column} = 'v{n}'")
        }
        7 => {
            let column = dice.pick(&["description", "system_prompt", "graph_id", "engine_id"]);
            format!("{column} = null")
        }
        8 => format!("sampling_params = '{{\"temperature\": {n}, \"top_p\": null}}'"),
        9 => "assistant_tool_ids = array[gen_random_uuid()]".to_owned(),
        10 => dice
            .pick(&["status = 'disabled'", "status = 'draft'"])
            .to_owned(),
        11 => "deleted_at = now()".to_owned(),
        12..=14 => "status = 'active', deleted_at = null".to_owned(),
        15 | 16 => format!("organization_id = {}", any("organizations", dice)),
        17 => format!("engine_id = {}", any("global_ai_engines", dice)),
        18 => {
            return format!(
                "insert into public.agents (name, status, engine_id) values ('new {n}', 'active', {})",
                any("global_ai_engines", dice)
            );
        }
        _ => {
            return format!(
                "delete from public.agents where id = {}",
                any("agents", dice)
            );
        }
    };
    format!(
        "update public.agents set {change} where id = {}",
        any("agents", dice)
    )
}

/// Links, tools, engines and models.
fn edit_around_agents(dice: &mut Dice) -> String {
    let n = dice.roll(1_000_000);
    match dice.roll(13) {
        0..=2 => format!(
            "insert into public.agent_mcp_tools select a, t from (select {} as a, {} as t) as l
             where a is not null and t is not null on conflict do nothing",
            any("agents", dice),
            any("mcp_tools", dice)
        ),
        3 => format!(
            "delete from public.agent_mcp_tools where mcp_tool_id = {}",
            any("mcp_tools", dice)
        ),
        4..=6 => format!(
            "update public.mcp_tools set endpoint_url = 'https://{}.example', auth_required = {} where id = {}",
            dice.roll(4),
            dice.pick(&["true", "false"]),
            any("mcp_tools", dice)
        ),
        7 => insert_tools(dice),
        8 => format!(
            "delete from public.mcp_tools where id = {}",
            any("mcp_tools", dice)
        ),
        9 => format!(
            "update public.ai_models set runtime_model_name = 'm{n}' where id = {}",
            any("ai_models", dice)
        ),
        10 => format!(
            "update public.global_ai_engines set language_model_id = {} where id = {}",
            any("ai_models", dice),
            any("global_ai_engines", dice)
        ),
        11 => format!(
            "with m as (insert into public.ai_models (runtime_model_name) values ('m{n}') returning id)
             insert into public.global_ai_engines (name, language_model_id) select 'e{n}', id from m"
        ),
        _ => {
            let table = dice.pick(&["ai_models", "global_ai_engines"]);
            format!(
                "delete from public.{table} where id = {}",
                any(table, dice)
            )
        }
    }
}

fn edit_in_bulk(dice: &mut Dice) -> String {
    let n = dice.roll(1_000_000);
    let some = format!("hashtext(id::text) % 3 = {}", dice.roll(3));
    match dice.roll(6) {
        0 | 1 => format!("update public.agents set system_prompt = 'bulk {n}' where {some}"),
        2 => format!("update public.mcp_tools set tool_name = tool_name || '{n}' where {some}"),
        3 => format!("delete from public.agents where {some}"),
        4 => "update public.agents set status = 'active', deleted_at = null".to_owned(),
        _ => insert_agents(dice),
    }
}

fn insert_agents(dice: &mut Dice) -> String {
    format!(
        "insert into public.agents (name, status, organization_id, system_prompt)
         select 'bulk ' || n, 'active', {}, 'You are number ' || n from generate_series(1, {}) as n",
        any("organizations", dice),
        dice.roll(20) + 1
    )
}

fn insert_tools(dice: &mut Dice) -> String {
    format!(
        "insert into public.mcp_tools (tool_name, endpoint_url)
         select 't' || n, 'https://' || n % 4 || '.example' from generate_series(1, {}) as n",
        dice.roll(4) + 1
    )
}
