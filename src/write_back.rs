//! `public.agents.langgraph_assistant_id`: the agent's row names its canonical assistant, or the one that works in its
//! place.
//!
//! The only thing that is ever written to a table of the application's, and the only lock on its rows that we take. It
//! comes after the sync has committed, in a transaction of its own that the server begins and commits within one message
//! of ours, and passes over rows that an editor holds; those are tried again. Were it part of the sync, editors would wait
//! for us, and deadlock with us.
//!
//! What an operator has to mend (a missing grant, a trigger that undoes the update) is an error in the log, once in a
//! while, and tried again with longer pauses: each attempt may run the application's triggers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_postgres::SimpleQueryRow;
use tracing::{debug, error, warn};
use uuid::Uuid;

use crate::config;
use crate::database::prepared::{Keeping, Prepared, array, rows};
use crate::database::{BATCH, Client, DEADLINE, Database, Error, Fault, at_once, at_once_said};
use crate::ids::{AgentId, AssistantId};
use crate::retry::Backoff;
use crate::sql;

/// How many agents are written together. Whoever edits one of them meanwhile waits for all, and for what the
/// application's triggers do about each: 500 bare ones take 30 ms.
const TOGETHER: usize = 100;

/// A crash may take it back: the next pass finds that.
const LIMITS: &str = "set local synchronous_commit = off; ";

/// What writes one agent, whose session keeps it: to plan it for many takes three times as long as to write one. (How it is planned is left
/// to the server: whatever is set for that, the application's triggers would meet.)
static ONE: LazyLock<Prepared> = LazyLock::new(|| {
    let statement = sql!("write_back")
        .replace(
            "unnest(:'agents'::uuid[], :'assistants'::uuid[])",
            "(values ($1, $2))",
        )
        .replace("unnest(:'agents'::uuid[])", "(values ($1))");
    Prepared::new("uuid, uuid", &statement)
});

/// The longest pause before what an editor holds is tried again, and before what an operator has to mend is.
const HELD: Duration = Duration::from_secs(30);
const REFUSED: Duration = Duration::from_secs(600);

/// How long nothing more is said of what an operator has to mend.
const SILENCE: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub struct WriteBack {
    database: Database,
    /// Agents whose row is free to be written later.
    held: Waiting,
    /// Agents whose row cannot be written before an operator has mended something.
    refused: Waiting,
    /// When that was last said.
    told: Mutex<Option<Instant>>,
    /// How many runs are under way.
    running: AtomicUsize,
}

/// An agent, and the assistant that its row is to name.
type Named = (AgentId, AssistantId);

/// Agents whose row could not be written yet, and what each is to name. Lost in a crash, and found again by the next pass.
#[derive(Debug, Default)]
struct Waiting {
    named: Mutex<BTreeMap<AgentId, AssistantId>>,
    more: Notify,
}

/// Why a row was not written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    /// An editor has it.
    Held,
    /// It was updated, and does not say what was written.
    Refused,
    /// Row-level security applies to this role.
    Hidden,
}

impl WriteBack {
    pub fn new(database: Database) -> Self {
        Self {
            database,
            held: Waiting::default(),
            refused: Waiting::default(),
            told: Mutex::default(),
            running: AtomicUsize::default(),
        }
    }

    /// Writes what can be written now; the rest waits for [`Self::retry`]. Never fails: the assistants stand already.
    pub async fn run(&self, client: &Client, named: &[Named]) {
        if named.is_empty() {
            return;
        }
        let _running = Running::begin(self);
        // First, so that nothing is forgotten should the caller go away in between.
        self.held.lock().extend(named.iter().copied());
        match attempt(client, &self.database.keeping, named).await {
            Ok(left) => self.done(named, &left),
            Err(e) if e.fault() == Fault::Setup => self.refuse(named, &e.to_string()),
            Err(e) => {
                warn!(error = %e, agents = named.len(), "the write-back failed, it is tried again")
            }
        }
    }

    /// Tries what is waiting again and again. Runs until it is dropped, which it may be at any point.
    pub async fn retry(&self) {
        tokio::join!(
            self.retry_waiting(&self.held, HELD),
            self.retry_waiting(&self.refused, REFUSED)
        );
    }

    async fn retry_waiting(&self, waiting: &Waiting, longest_pause: Duration) {
        loop {
            waiting.more.notified().await;
            let mut backoff = Backoff::new(Duration::from_millis(250), longest_pause);
            loop {
                tokio::time::sleep(backoff.pause()).await;
                let waiting: Vec<Named> = waiting.lock().iter().map(|(a, id)| (*a, *id)).collect();
                if waiting.is_empty() {
                    break;
                }
                for named in waiting.chunks(BATCH) {
                    if let Err(e) = self
                        .database
                        .within(DEADLINE, self.retry_batch(named))
                        .await
                    {
                        debug!(error = %e, waiting = waiting.len(), "the write-back failed again");
                    }
                }
            }
        }
    }

    async fn retry_batch(&self, named: &[Named]) -> Result<(), Error> {
        let client = self.database.client().await?;
        let keeping = &self.database.keeping;
        match attempt(&client, keeping, named).await {
            Ok(left) => self.done(named, &left),
            Err(e) if e.fault() == Fault::Passing => return Err(e),
            // One row that the application's own triggers refuse must not keep the others from being written.
            Err(_) => {
                for one in named.chunks(1) {
                    match attempt(&client, keeping, one).await {
                        Ok(left) => self.done(one, &left),
                        Err(e) if e.fault() == Fault::Setup => self.refuse(one, &e.to_string()),
                        Err(e) => debug!(agent = ?one, error = %e, "the write-back failed again"),
                    }
                }
            }
        }
        client.give_back();
        Ok(())
    }

    /// `left` are those of `named` that were not written.
    fn done(&self, named: &[Named], left: &[(Named, Why)]) {
        let left_because = |why| -> Vec<Named> {
            let such = left.iter().filter(|(_, because)| *because == why);
            such.map(|(one, _)| *one).collect()
        };
        self.held.remove(named);
        self.refused.remove(named);
        self.held.add(&left_because(Why::Held));
        self.refuse(
            &left_because(Why::Refused),
            "the update went through, and the row does not say so: a `before update` trigger of public.agents returns null or puts \
             back what was there",
        );
        self.refuse(
            &left_because(Why::Hidden),
            "row-level security applies to this role (`agent-sync roles` makes one that bypasses it)",
        );
    }

    /// Leaves these to an operator and says why, unless something was said just now: each attempt finds it again.
    fn refuse(&self, named: &[Named], cause: &str) {
        let Some((first, _)) = named.first() else {
            return;
        };
        self.held.remove(named);
        self.refused.add(named);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|at| at.elapsed() >= SILENCE) {
            *told = Some(Instant::now());
            error!(
                agent = %first, agents = named.len(),
                "langgraph_assistant_id cannot be written, it is tried again: {cause}. To do without it: {}=false",
                config::WRITE_BACK
            );
        }
    }
}

/// One that is under way, to its end, or until its caller goes away.
struct Running<'a>(&'a WriteBack);

impl<'a> Running<'a> {
    fn begin(write_back: &'a WriteBack) -> Self {
        write_back.running.fetch_add(1, Ordering::SeqCst);
        Self(write_back)
    }
}

impl Drop for Running<'_> {
    /// Only when none is under way: what is being written must not be tried again meanwhile.
    fn drop(&mut self) {
        let is_last = self.0.running.fetch_sub(1, Ordering::SeqCst) == 1;
        if is_last && !self.0.held.lock().is_empty() {
            self.0.held.more.notify_one();
        }
    }
}

impl Waiting {
    fn add(&self, named: &[Named]) {
        if !named.is_empty() {
            self.lock().extend(named.iter().copied());
            self.more.notify_one();
        }
    }

    /// But for those that are to name another assistant meanwhile.
    fn remove(&self, named: &[Named]) {
        let mut waiting = self.lock();
        for (agent, id) in named {
            if waiting.get(agent) == Some(id) {
                waiting.remove(agent);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<AgentId, AssistantId>> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns those that were not written, and why.
async fn attempt(
    client: &Client,
    keeping: &Keeping,
    named: &[Named],
) -> Result<Vec<(Named, Why)>, Error> {
    let mut left = Vec::new();
    for named in named.chunks(TOGETHER) {
        let rows = match named {
            [one] => attempt_one(client, keeping, one).await?,
            _ => None,
        };
        let rows = match rows {
            Some(rows) => rows,
            None => attempt_many(client, named).await?,
        };
        left.extend(rows.iter().filter_map(|row| {
            let agent = AgentId(Uuid::try_parse(row.get("id")?).ok()?);
            let one = named.iter().find(|(candidate, _)| *candidate == agent)?;
            let why = match row.get("why")? {
                "refused" => Why::Refused,
                "hidden" => Why::Hidden,
                _ => Why::Held,
            };
            Some((*one, why))
        }));
    }
    Ok(left)
}

/// `None`: sessions here keep nothing, and nothing was done.
async fn attempt_one(
    client: &Client,
    keeping: &Keeping,
    (agent, id): &Named,
) -> Result<Option<Vec<SimpleQueryRow>>, Error> {
    let arguments = format!("'{agent}', '{id}'");
    let message = |run: &str| at_once_said(&format!("{LIMITS}{run}"));
    let sent = ONE.run_kept(keeping, client, &arguments, message).await?;
    Ok(sent.map(|sent| rows(sent).pop().unwrap_or_default()))
}

async fn attempt_many(client: &Client, named: &[Named]) -> Result<Vec<SimpleQueryRow>, Error> {
    let agents = array(named.iter().map(|(agent, _)| agent.to_string()));
    let assistants = array(named.iter().map(|(_, id)| id.to_string()));
    let statement = sql!("write_back")
        .replace(":'agents'", &agents)
        .replace(":'assistants'", &assistants);
    at_once(client, &format!("{LIMITS}{statement}")).await
}
