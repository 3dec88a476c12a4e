//! What may befall two workers and their database, at random but repeatably.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use agent_sync::config::{DATABASE_URL, SCOPE};

use super::binary::{FREE_PORTS, Running};
use super::cluster::Server;
use super::database::reconnect;
use super::dice::Dice;
use super::proxy::{Commit, Proxy};
use super::{TestDatabase, eventually};

/// What the connection for the bell calls itself.
const BELL: &str = "agent-sync bell";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// `kill -9`, and a new process in its place.
    Kill,
    /// `kill -STOP`, and `-CONT` after a while.
    Stop,
    /// All connections of a worker are closed.
    Cut,
    /// All connections of a worker stay open and carry nothing: for a while, until they are closed, or for ever.
    BlackHole,
    /// A commit never arrives, and the connection is closed.
    LostCommit,
    /// A commit is carried out, and its answer lost together with the connection.
    LostAnswer,
    /// The listening connection listens to nothing any more.
    Unlisten,
    /// The connection that has the bell, or waits for it, is closed, or carries nothing any more.
    Unheld,
    /// The server ends sessions: workers', editors', the pooler's.
    Terminate,
    /// The server quits at once and comes back.
    Crash,
}

impl Fault {
    pub const ALL: [Self; 10] = [
        Self::Kill,
        Self::Stop,
        Self::Cut,
        Self::BlackHole,
        Self::LostCommit,
        Self::LostAnswer,
        Self::Unlisten,
        Self::Unheld,
        Self::Terminate,
        Self::Crash,
    ];
    /// What befalls a worker.
    const OF_A_WORKER: [Self; 13] = [
        Self::Stop,
        Self::Cut,
        Self::Cut,
        Self::BlackHole,
        Self::BlackHole,
        Self::LostCommit,
        Self::LostCommit,
        Self::LostAnswer,
        Self::LostAnswer,
        Self::Unlisten,
        Self::Unlisten,
        Self::Unheld,
        Self::Unheld,
    ];
    const DEADLY: [Self; 5] = [
        Self::Kill,
        Self::Kill,
        Self::Stop,
        Self::LostCommit,
        Self::BlackHole,
    ];
    const OF_THE_SERVER: [Self; 3] = [Self::Terminate, Self::Terminate, Self::Crash];
}

/// How often each fault did something: cut a connection that was there, lost an answer that was awaited.
#[derive(Debug, Default, Clone)]
pub struct Faults(BTreeMap<Fault, u64>);

impl Faults {
    pub fn add(&mut self, fault: Fault, times: u64) {
        *self.0.entry(fault).or_default() += times;
    }

    pub fn join(&mut self, other: &Self) {
        for (fault, times) in &other.0 {
            self.add(*fault, *times);
        }
    }

    pub fn of(&self, fault: Fault) -> u64 {
        self.0.get(&fault).copied().unwrap_or(0)
    }

    pub fn sum(&self) -> u64 {
        self.0.values().sum()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = Fault::ALL.map(|fault| format!("{fault:?} {}", self.of(fault)));
        f.write_str(&parts.join(", "))
    }
}

/// A worker process that reaches its database through a proxy of its own.
pub struct Victim {
    worker: Running,
    proxy: Proxy,
    url: String,
    pub faults: Faults,
}

impl Victim {
    /// Before this database, on this port of a server or a pooler.
    pub async fn start(port: u16, database: &TestDatabase) -> Self {
        let proxy = Proxy::before(port).await;
        // The proxy has to read along.
        let url = format!("{}?sslmode=disable", database.url_by_way_of(proxy.address));
        Self {
            worker: run(&url),
            proxy,
            url,
            faults: Faults::default(),
        }
    }

    /// Waits for the first pass.
    pub async fn has_passed(&self) {
        self.worker.line("Startup sync summary").await;
    }

    /// A schedule of so many faults; only in a deadly one is the worker killed. (A new process looks at everything when it
    /// starts, and so makes up for whatever went wrong before.) In the end new connections are as good as any; of the old
    /// ones, those that stand still go on doing so.
    pub async fn suffer(&mut self, mut dice: Dice, faults: u64, deadly: bool) {
        for _ in 0..faults {
            tokio::time::sleep(dice.under(300)).await;
            assert!(
                self.is_running(),
                "the worker has ended by itself:\n{}",
                self.worker.output()
            );
            let fault = if deadly && dice.roll(2) == 0 {
                dice.pick(&Fault::DEADLY)
            } else {
                dice.pick(&Fault::OF_A_WORKER)
            };
            let while_it_lasts = dice.under(600);
            let chance = dice.roll(3);
            self.befall(fault, while_it_lasts, chance).await;
        }
        self.proxy.expect_commits(&[]);
        self.faults
            .add(Fault::LostCommit, self.proxy.commits_lost());
        self.faults
            .add(Fault::LostAnswer, self.proxy.answers_lost());
        self.faults.add(Fault::Unlisten, self.proxy.unlistened());
    }

    async fn befall(&mut self, fault: Fault, while_it_lasts: Duration, chance: u64) {
        match fault {
            Fault::Kill => {
                self.worker.signal("-KILL");
                self.worker.ended().await;
                self.faults.add(fault, 1);
                tokio::time::sleep(while_it_lasts / 2).await;
                self.worker = run(&self.url);
            }
            Fault::Stop => {
                self.worker.signal("-STOP");
                tokio::time::sleep(while_it_lasts).await;
                self.worker.signal("-CONT");
                self.faults.add(fault, 1);
            }
            Fault::Cut => self.cut(),
            Fault::BlackHole => {
                self.stall();
                tokio::time::sleep(while_it_lasts).await;
                match chance {
                    0 => _ = self.proxy.mend(),
                    1 => _ = self.proxy.give_up(),
                    // Nobody ever finds out about these connections but by trying.
                    _ => {}
                }
            }
            Fault::LostCommit => self.expect_commits(Commit::Lost, chance),
            Fault::LostAnswer => self.expect_commits(Commit::Unanswered, chance),
            Fault::Unlisten => self.proxy.unlisten(),
            Fault::Unheld => {
                let times = match chance {
                    0 => self.proxy.stall_only(BELL),
                    _ => self.proxy.cut_only(BELL),
                };
                self.faults.add(fault, times.min(1));
            }
            Fault::Terminate | Fault::Crash => unreachable!("not of a worker"),
        }
    }

    /// Not always the next one: it would always be the first of those that a worker makes in a row.
    fn expect_commits(&self, bad: Commit, chance: u64) {
        let good = Commit::Answered;
        let next = [[bad, bad, good], [good, bad, good], [good, good, bad]];
        self.proxy
            .expect_commits(&next[usize::try_from(chance).expect("small")]);
    }

    /// The bell is silenced, and not by a schedule: it is when this returns.
    pub async fn silence(&mut self) {
        let before = self.proxy.unlistened();
        eventually("the listener is deaf", || async {
            self.proxy.unlisten();
            if self.proxy.unlistened() > before {
                Ok(())
            } else {
                Err("it is not listening".to_owned())
            }
        })
        .await;
        self.faults.add(Fault::Unlisten, 1);
    }

    /// The process stands still, with whatever it has in hand.
    pub fn halt(&mut self) {
        self.worker.signal("-STOP");
        self.faults.add(Fault::Stop, 1);
    }

    pub fn go_on(&self) {
        self.worker.signal("-CONT");
    }

    pub fn stall(&mut self) {
        self.faults.add(Fault::BlackHole, self.proxy.stall().min(1));
    }

    /// Connections that stand still are closed.
    pub fn give_up(&self) {
        self.proxy.give_up();
    }

    pub fn cut(&mut self) {
        self.faults.add(Fault::Cut, self.proxy.cut().min(1));
    }

    fn is_running(&mut self) -> bool {
        matches!(self.worker.child.try_wait(), Ok(None))
    }

    pub fn output(&self) -> String {
        self.worker.output()
    }

    /// Ends as it should when it is told to.
    pub async fn stop(mut self) {
        self.worker.signal("-TERM");
        let code = self.worker.ended().await;
        assert_eq!(code, Some(0), "{}", self.worker.output());
    }
}

fn run(url: &str) -> Running {
    let variables = [
        (DATABASE_URL, url),
        (SCOPE, "all"),
        ("AGENT_SYNC_MAX_REMOVALS", "unlimited"),
    ];
    Running::start(&[], &[&variables, FREE_PORTS].concat())
}

/// What befalls the server of this database.
pub async fn befall_server(url: &str, server: &Server, mut dice: Dice, faults: u64) -> Faults {
    let mut done = Faults::default();
    for _ in 0..faults {
        tokio::time::sleep(dice.under(700)).await;
        let fault = dice.pick(&Fault::OF_THE_SERVER);
        let sessions = dice.roll(4) + 1;
        if fault == Fault::Crash {
            server.crash_and_restart().await;
            done.add(fault, 1);
        } else {
            done.add(fault, terminate(url, &mut dice, sessions).await.min(1));
        }
    }
    done
}

/// Ends so many sessions, whosever they are, and returns how many there were to end.
async fn terminate(url: &str, dice: &mut Dice, sessions: u64) -> u64 {
    let salt = dice.roll(1_000_000);
    let statement = format!(
        "select count(pg_terminate_backend(pid)) from (
           select pid from pg_stat_activity
           where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()
           order by hashint8(pid + {salt}) limit {sessions}
         ) as chosen"
    );
    let client = reconnect(url).await;
    let row = client.query_one(&statement, &[]).await;
    // It is a session like any other, and may go when the server does.
    row.map_or(0, |row| row.get::<_, i64>(0).cast_unsigned())
}
