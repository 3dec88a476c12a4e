//! A TCP proxy before the database that steps in at statements of our choice: it stops the worker there, or holds the
//! statement back for a while, or refuses it in the server's place.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::binary::Running;
use super::{TestDatabase, eventually};

pub struct Interceptor {
    /// Of the database, through this proxy.
    pub url: String,
    orders: Orders,
}

/// What to do at which statements, one after the other.
type Orders = Arc<Mutex<VecDeque<Order>>>;

struct Order {
    /// In the statement.
    text: String,
    then: Then,
}

enum Then {
    Stop { process: u32 },
    Hold { until: oneshot::Receiver<()> },
    Refuse { code: &'static str },
    Unlisten { when: oneshot::Receiver<()> },
}

/// As both tasks of a connection write to the worker.
type ToWorker = Arc<tokio::sync::Mutex<OwnedWriteHalf>>;

impl Interceptor {
    pub async fn before(database: &TestDatabase) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let server = SocketAddr::from(([127, 0, 0, 1], database.port()));
        let orders = Orders::default();
        let of_all = orders.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(server).await.expect("the database");
                let ((from_worker, to_worker), (from_server, to_server)) =
                    (near.into_split(), far.into_split());
                let to_worker = Arc::new(tokio::sync::Mutex::new(to_worker));
                tokio::spawn(pass_back(from_server, to_worker.clone()));
                tokio::spawn(pass_on(from_worker, to_server, to_worker, of_all.clone()));
            }
        });
        Self {
            url: database.url_by_way_of(address),
            orders,
        }
    }

    /// Stops the worker with SIGSTOP at the next statement with this text in it.
    ///
    /// The statement is passed on when every thread of the worker has stopped. So the server carries it out, and the
    /// worker can neither hear of it nor say what comes next. Whatever it had sent before gets through, as it would
    /// without us.
    pub fn stop_at(&self, worker: &Running, text: &str) {
        let process = worker.child.id().expect("running");
        self.order(text, Then::Stop { process });
    }

    /// Holds back the next statement with this text in it, until the answer is used or dropped.
    pub fn hold_at(&self, text: &str) -> oneshot::Sender<()> {
        let (release, until) = oneshot::channel();
        self.order(text, Then::Hold { until });
        release
    }

    /// Answers the next statement with this text in it with an error of this code. The server never sees it.
    pub fn refuse_at(&self, text: &str, code: &'static str) {
        self.order(text, Then::Refuse { code });
    }

    /// Lets the next statement with this text in it pass. When the answer is used or dropped, says `unlisten *` in the
    /// same session, which must be doing nothing else by then, and keeps what the server says to that from the worker.
    pub fn unlisten_after(&self, text: &str) -> oneshot::Sender<()> {
        let (forget, when) = oneshot::channel();
        self.order(text, Then::Unlisten { when });
        forget
    }

    fn order(&self, text: &str, then: Then) {
        let text = text.to_owned();
        lock(&self.orders).push_back(Order { text, then });
    }

    /// Waits until every statement that was named has come.
    pub async fn reached(&self) {
        eventually("the worker comes to the statement", || async {
            match lock(&self.orders).front() {
                None => Ok(()),
                Some(order) => Err(order.text.clone()),
            }
        })
        .await;
    }
}

async fn pass_back(mut from_server: OwnedReadHalf, to_worker: ToWorker) {
    /// CommandComplete and ReadyForQuery.
    const UNLISTENED: &[u8] = b"C\0\0\0\x0dUNLISTEN\0Z\0\0\0\x05I";
    let mut buffer = vec![0; 1 << 16];
    while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
        if buffer[..read].ends_with(UNLISTENED) {
            continue;
        }
        let mut to_worker = to_worker.lock().await;
        if to_worker.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
    let _ = to_worker.lock().await.shutdown().await;
}

async fn pass_on(
    mut from_worker: OwnedReadHalf,
    mut to_server: OwnedWriteHalf,
    to_worker: ToWorker,
    orders: Orders,
) {
    let mut buffer = vec![0; 1 << 16];
    // What came since there are orders: a text may come in pieces.
    let mut seen = Vec::new();
    while let Ok(read @ 1..) = from_worker.read(&mut buffer).await {
        let mut later = None;
        match obey(&orders, &mut seen, &buffer[..read]) {
            None => {}
            Some(Then::Unlisten { when }) => later = Some(when),
            Some(Then::Stop { process }) => stop(process),
            Some(Then::Hold { until }) => _ = until.await,
            Some(Then::Refuse { code }) => {
                let mut to_worker = to_worker.lock().await;
                to_worker.write_all(&refusal(code)).await.expect("refused");
                continue;
            }
        }
        if to_server.write_all(&buffer[..read]).await.is_err() {
            break;
        }
        if let Some(when) = later {
            _ = when.await;
            let unlisten = b"Q\0\0\0\x0funlisten *\0";
            to_server.write_all(unlisten).await.expect("sent");
        }
    }
}

/// Takes the order that this completes the text of.
fn obey(orders: &Orders, seen: &mut Vec<u8>, new: &[u8]) -> Option<Then> {
    let mut orders = lock(orders);
    let text = orders.front()?.text.as_bytes();
    seen.extend_from_slice(new);
    if !seen.windows(text.len()).any(|window| window == text) {
        return None;
    }
    seen.clear();
    orders.pop_front().map(|order| order.then)
}

/// Returns when none of its threads runs any more.
fn stop(process: u32) {
    let sent = std::process::Command::new("kill")
        .args(["-STOP", &process.to_string()])
        .status()
        .expect("kill");
    assert!(sent.success());
    let threads = || std::fs::read_dir(format!("/proc/{process}/task")).expect("threads");
    // The state comes after the name, which is in parentheses and may hold anything. A thread that is gone has stopped.
    let has_stopped = |thread: std::io::Result<std::fs::DirEntry>| {
        let state = thread.and_then(|thread| std::fs::read_to_string(thread.path().join("stat")));
        state.map_or(true, |state| {
            state
                .rsplit(") ")
                .next()
                .is_some_and(|s| s.starts_with('T'))
        })
    };
    while !threads().all(has_stopped) {
        std::thread::yield_now();
    }
}

/// ErrorResponse and ReadyForQuery, as the server sends them.
fn refusal(code: &str) -> Vec<u8> {
    let fields = format!("SERROR\0VERROR\0C{code}\0Mrefused by the test\0\0");
    let length = u32::try_from(fields.len() + 4).expect("short");
    let mut message = vec![b'E'];
    message.extend(length.to_be_bytes());
    message.extend(fields.as_bytes());
    message.extend(b"Z\0\0\0\x05I");
    message
}

fn lock(orders: &Orders) -> MutexGuard<'_, VecDeque<Order>> {
    orders.lock().unwrap_or_else(PoisonError::into_inner)
}
