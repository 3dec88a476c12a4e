//! A TCP proxy before the database, and what may go wrong on the way: connections that are cut, that stay open and carry
//! nothing any more, or that are lost just before a commit, or between the commit and its answer. And, as a session can only unlisten itself, a
//! word slipped into a listening connection.

mod wire;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use wire::{COMMIT, Session, UNLISTEN};

pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    /// Ends with the proxy, and all connections with it.
    _accepting: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    connections: Mutex<Vec<Weak<Connection>>>,
    accepted: AtomicU64,
    /// What becomes of the next commits.
    commits: Mutex<VecDeque<Commit>>,
    commits_lost: AtomicU64,
    answers_lost: AtomicU64,
    unlistened: AtomicU64,
}

struct Connection {
    line: watch::Sender<Line>,
    unlisten: Notify,
    /// What it calls itself, once it has.
    name: OnceLock<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Carrying,
    Stalled,
    Cut,
}

/// What becomes of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    Answered,
    /// It never arrives: the connection ends.
    Lost,
    /// It is carried out, and instead of the answer the connection ends.
    Unanswered,
}

impl Proxy {
    pub async fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared::default());
        let (ours, mut accepting) = (shared.clone(), JoinSet::new());
        accepting.spawn(async move {
            let mut carrying = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let connection = Arc::new(Connection {
                    line: watch::Sender::new(Line::Carrying),
                    unlisten: Notify::new(),
                    name: OnceLock::new(),
                });
                ours.enter(&connection);
                carrying.spawn(connect(near, port, connection, ours.clone()));
                while carrying.try_join_next().is_some() {}
            }
        });
        Self {
            address,
            shared,
            _accepting: accepting,
        }
    }

    /// From now on, the connections that there are carry nothing, and both ends stay open, as when a router forgets a
    /// connection. New ones carry. Returns how many there were.
    pub fn stall(&self) -> u64 {
        self.shared.change(Line::Carrying, Line::Stalled)
    }

    /// The same, of the connections of this name.
    pub fn stall_only(&self, name: &str) -> u64 {
        self.shared.change_only(name, Line::Stalled)
    }

    /// Stalled connections carry again, with all that was said meanwhile.
    pub fn mend(&self) -> u64 {
        self.shared.change(Line::Stalled, Line::Carrying)
    }

    /// Stalled connections are closed at last.
    pub fn give_up(&self) -> u64 {
        self.shared.change(Line::Stalled, Line::Cut)
    }

    /// Closes the connections that there are, towards both sides.
    pub fn cut(&self) -> u64 {
        self.shared.change(Line::Carrying, Line::Cut)
    }

    /// The same, those of this name.
    pub fn cut_only(&self, name: &str) -> u64 {
        self.shared.change_only(name, Line::Cut)
    }

    /// What becomes of the next commits, on whichever connection; those that follow are answered.
    pub fn expect_commits(&self, commits: &[Commit]) {
        *self.shared.commits.lock().expect("commits") = commits.iter().copied().collect();
    }

    pub fn commits_lost(&self) -> u64 {
        self.shared.commits_lost.load(Ordering::Relaxed)
    }

    pub fn answers_lost(&self) -> u64 {
        self.shared.answers_lost.load(Ordering::Relaxed)
    }

    /// `unlisten *` on the listening connection, as soon as it is quiet there.
    pub fn unlisten(&self) {
        for connection in self.shared.living() {
            connection.unlisten.notify_one();
        }
    }

    /// How often a listening connection was made to unlisten.
    pub fn unlistened(&self) -> u64 {
        self.shared.unlistened.load(Ordering::Relaxed)
    }

    /// How many connections there have been.
    pub fn connections(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }
}

impl Connection {
    /// Whether it did.
    fn change(&self, from: Line, to: Line) -> bool {
        self.line.send_if_modified(|line| {
            let changes = *line == from;
            if changes {
                *line = to;
            }
            changes
        })
    }
}

impl Shared {
    fn enter(&self, connection: &Arc<Connection>) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        let mut connections = self.connections.lock().expect("connections");
        connections.retain(|connection| connection.strong_count() > 0);
        connections.push(Arc::downgrade(connection));
    }

    fn next_commit(&self) -> Commit {
        let mut commits = self.commits.lock().expect("commits");
        commits.pop_front().unwrap_or(Commit::Answered)
    }

    fn living(&self) -> Vec<Arc<Connection>> {
        let connections = self.connections.lock().expect("connections");
        connections.iter().filter_map(Weak::upgrade).collect()
    }

    /// Returns how many lines changed.
    fn change(&self, from: Line, to: Line) -> u64 {
        let all = self.living();
        all.iter().filter(|c| c.change(from, to)).count() as u64
    }

    fn change_only(&self, name: &str, to: Line) -> u64 {
        let all = self.living();
        let named = all
            .iter()
            .filter(|c| c.name.get().is_some_and(|its| its == name));
        named.filter(|c| c.change(Line::Carrying, to)).count() as u64
    }
}

/// Carries until one of the ends, or the line, is gone; and then closes both.
async fn connect(mut near: TcpStream, port: u16, connection: Arc<Connection>, shared: Arc<Shared>) {
    // A database that is down is one that refuses.
    let Ok(mut far) = TcpStream::connect(("127.0.0.1", port)).await else {
        return;
    };
    let mut line = connection.line.subscribe();
    tokio::select! {
        _ = carry(&mut near, &mut far, &connection, &shared) => {}
        _ = line.wait_for(|line| *line == Line::Cut) => {}
    }
}

async fn carry(
    near: &mut TcpStream,
    far: &mut TcpStream,
    connection: &Connection,
    shared: &Shared,
) -> std::io::Result<()> {
    let mut line = connection.line.subscribe();
    let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
    let mut session = Session::default();
    let mut losing = false;
    loop {
        let stalled = *line.borrow_and_update() == Line::Stalled;
        tokio::select! {
            _ = line.changed() => {}
            // What a client says to a session that is unlistening waits until that is done.
            read = near.read(&mut up), if !stalled && !session.is_unlistening() => {
                let said = &up[..read?];
                if said.is_empty() {
                    return Ok(());
                }
                if connection.name.get().is_none()
                    && let Some(name) = wire::name(said)
                {
                    let _ = connection.name.set(name);
                }
                session.client_says(said);
                if said.ends_with(COMMIT) {
                    match shared.next_commit() {
                        Commit::Answered => {}
                        Commit::Lost => {
                            shared.commits_lost.fetch_add(1, Ordering::Relaxed);
                            return Ok(());
                        }
                        Commit::Unanswered => losing = true,
                    }
                }
                far.write_all(said).await?;
            }
            read = far.read(&mut down), if !stalled => {
                let said = &down[..read?];
                if said.is_empty() {
                    return Ok(());
                }
                if losing {
                    shared.answers_lost.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                let was_unlistening = session.is_unlistening();
                near.write_all(&session.server_says(said)).await?;
                if was_unlistening && !session.is_unlistening() {
                    shared.unlistened.fetch_add(1, Ordering::Relaxed);
                }
            }
            () = connection.unlisten.notified(), if !stalled && session.is_listening() => {
                session.unlisten();
                far.write_all(UNLISTEN).await?;
            }
        }
    }
}
