//! A TCP proxy before the database that can go deaf: it keeps its connections open and forwards nothing any more.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub struct Proxy {
    pub address: SocketAddr,
    stalled: Arc<watch::Sender<u64>>,
    connections: Arc<watch::Sender<u64>>,
}

impl Proxy {
    pub async fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let (stalled, connections) = (
            Arc::new(watch::Sender::new(0)),
            Arc::new(watch::Sender::new(0)),
        );
        let (stalls, count) = (stalled.clone(), connections.clone());
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut stall = stalls.subscribe();
                count.send_modify(|n| *n += 1);
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(("127.0.0.1", port))
                        .await
                        .expect("the database");
                    let stalled = tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => false,
                        _ = stall.changed() => true,
                    };
                    if stalled {
                        // Both ends stay open, as when a router forgets a connection.
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        Self {
            address,
            stalled,
            connections,
        }
    }

    /// From now on, the connections that there are carry nothing. New ones do.
    pub fn stall(&self) {
        self.stalled.send_modify(|n| *n += 1);
    }

    /// How many connections there have been.
    pub fn connections(&self) -> u64 {
        *self.connections.borrow()
    }
}
