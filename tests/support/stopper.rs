//! A TCP proxy before the database that stops the worker with SIGSTOP at a statement of our choice.
//!
//! The statement that is waited for is held back until every thread of the worker has stopped, and then passed on. So
//! the server carries it out, and the worker can neither hear of it nor say what comes next. Whatever it had sent before
//! it was stopped gets through, as it would without us.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::TestDatabase;
use super::binary::Running;
use super::eventually;

pub struct Stopper {
    /// Of the database, through this proxy.
    pub url: String,
    order: Arc<Mutex<Option<Order>>>,
}

/// To stop this process at the first message with this text in it.
struct Order {
    process: u32,
    text: String,
}

impl Stopper {
    pub async fn before(database: &TestDatabase) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let server = SocketAddr::from(([127, 0, 0, 1], database.port()));
        let order: Arc<Mutex<Option<Order>>> = Arc::default();
        let orders = order.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(server).await.expect("the database");
                let ((from_worker, mut to_worker), (mut from_server, to_server)) =
                    (near.into_split(), far.into_split());
                tokio::spawn(async move { copy(&mut from_server, &mut to_worker).await });
                tokio::spawn(pass_on(from_worker, to_server, orders.clone()));
            }
        });
        Self {
            url: format!("postgresql://postgres@{address}/{}", database.name()),
            order,
        }
    }

    /// From now on, the worker is stopped at the first statement with this text in it.
    pub fn stop_at(&self, worker: &Running, text: &str) {
        let order = Order {
            process: worker.child.id().expect("running"),
            text: text.to_owned(),
        };
        *lock(&self.order) = Some(order);
    }

    /// Waits until it has happened.
    pub async fn stopped(&self) {
        eventually("the worker comes to the statement", || async {
            match &*lock(&self.order) {
                None => Ok(()),
                Some(order) => Err(order.text.clone()),
            }
        })
        .await;
    }
}

async fn pass_on(
    mut from_worker: OwnedReadHalf,
    mut to_server: OwnedWriteHalf,
    orders: Arc<Mutex<Option<Order>>>,
) {
    let mut buffer = vec![0; 1 << 16];
    // What came since there is an order: a text may come in pieces.
    let mut seen = Vec::new();
    while let Ok(read @ 1..) = from_worker.read(&mut buffer).await {
        {
            let mut order = lock(&orders);
            if let Some(Order { process, text }) = &*order {
                seen.extend_from_slice(&buffer[..read]);
                if seen.windows(text.len()).any(|w| w == text.as_bytes()) {
                    stop(*process);
                    *order = None;
                }
            }
        }
        if to_server.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
}

/// Returns when none of its threads runs any more.
fn stop(process: u32) {
    let sent = std::process::Command::new("kill")
        .args(["-STOP", &process.to_string()])
        .status()
        .expect("kill");
    assert!(sent.success());
    let threads = || std::fs::read_dir(format!("/proc/{process}/task")).expect("threads");
    let has_stopped = |thread: std::fs::DirEntry| {
        let state = std::fs::read_to_string(thread.path().join("stat")).expect("its state");
        // After the name, which is in parentheses and may hold anything.
        state
            .rsplit(") ")
            .next()
            .is_some_and(|s| s.starts_with('T'))
    };
    while !threads().all(|thread| has_stopped(thread.expect("a thread"))) {
        std::thread::yield_now();
    }
}

fn lock(order: &Mutex<Option<Order>>) -> std::sync::MutexGuard<'_, Option<Order>> {
    order.lock().unwrap_or_else(PoisonError::into_inner)
}
