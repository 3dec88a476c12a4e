//! A client's socket, with what hyper leaves to others: a deadline for taking an answer, an end at which the client still
//! gets it, and finding out that the client is gone.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use super::exchange::Exchange;

/// What is read of a request that was answered before all of it had come, and for how long, before the connection is
/// closed. Else the client's sending fails, and it never looks at the answer.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_BYTES: usize = 16 * 1024 * 1024;

/// A client that vanished without a word looks like one that waits, and streams may wait for long: after this much silence
/// the kernels find out, with as many tries as it takes until [`GONE`].
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// For how long what was sent may stay unacknowledged.
const GONE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    /// How long a client may take to read an answer. The whole of it: one that takes a byte a second is no better. Where it
    /// is streamed, there is no whole: then since the client took any of it.
    patience: Duration,
    /// Runs from when the kernel's buffer is full until all is written.
    writing: Option<Pin<Box<Sleep>>>,
    exchange: Arc<Exchange>,
    /// Runs once the end of the answer is sent.
    lingering: Option<Pin<Box<Sleep>>>,
    lingered: usize,
}

impl Socket {
    pub fn new(stream: TcpStream, patience: Duration, exchange: Arc<Exchange>) -> Self {
        prepare(&stream);
        Self {
            stream,
            patience,
            exchange,
            writing: None,
            lingering: None,
            lingered: 0,
        }
    }

    /// What a write came to, unless it is too late.
    fn in_time(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_pending() {
            let patience = self.patience;
            let deadline = self
                .writing
                .get_or_insert_with(|| Box::pin(sleep(patience)));
            ready!(deadline.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if let Some(deadline) = &mut self.writing
            && self.exchange.is_streamed()
        {
            deadline.as_mut().reset(Instant::now() + self.patience);
        }
        written
    }
}

/// What the kernel refuses here it refuses to everybody: the connection works all the same.
fn prepare(stream: &TcpStream) {
    // The tokens of a stream are small: each goes at once.
    let _ = stream.set_nodelay(true);
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE_INTERVAL);
    let _ = socket.set_tcp_keepalive(&keepalive);
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_user_timeout(Some(GONE));
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.exchange.looks_whole() {
            // The client shall see that something is missing.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buffer);
        self.in_time(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, buffers);
        self.in_time(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Called when everything is written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writing = None;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = &mut *self;
        if socket.lingering.is_none() {
            ready!(Pin::new(&mut socket.stream).poll_shutdown(cx))?;
        }
        if !socket.exchange.is_unread() {
            return Poll::Ready(Ok(()));
        }
        let deadline = socket
            .lingering
            .get_or_insert_with(|| Box::pin(sleep(LINGER)));
        let mut bytes = [0; 8192];
        while socket.lingered < LINGER_BYTES && deadline.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut bytes);
            match ready!(Pin::new(&mut socket.stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => socket.lingered += buffer.filled().len(),
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use futures::poll;
    use tokio::net::TcpListener;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(15);

    async fn connected() -> (std::net::TcpStream, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let client = std::net::TcpStream::connect(address).expect("connected");
        let (stream, _) = listener.accept().await.expect("accepted");
        (client, Socket::new(stream, PATIENCE, Arc::default()))
    }

    /// Writes until nothing more fits, or the socket has had enough.
    async fn fill(socket: &mut Socket) -> Poll<io::Result<usize>> {
        loop {
            let mut socket = Pin::new(&mut *socket);
            let write = std::future::poll_fn(|cx| socket.as_mut().poll_write(cx, &[0; 65536]));
            match poll!(std::pin::pin!(write)) {
                Poll::Ready(Ok(_)) => {}
                other => return other,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_some_of_a_stream_may_go_on() {
        for streams in [true, false] {
            let (mut client, mut socket) = connected().await;
            if streams {
                socket.exchange.streams(false);
            }
            client.set_nonblocking(true).expect("set");
            let mut some = vec![0; 1024 * 1024];
            for _ in 0..3 {
                assert!(fill(&mut socket).await.is_pending());
                tokio::time::advance(PATIENCE / 2).await;
                // As much as has come, and that is not all that was written.
                while client.read(&mut some).is_ok_and(|n| n > 0) {}
                socket.stream.writable().await.expect("writable");
                if fill(&mut socket).await.is_ready() {
                    break;
                }
            }
            // Nothing was ever written to the end. Of a whole answer, all has to be taken in time.
            tokio::time::advance(PATIENCE / 4).await;
            assert_eq!(fill(&mut socket).await.is_pending(), streams);
            // Who takes nothing is cut off in any case.
            tokio::time::advance(PATIENCE).await;
            let error = match fill(&mut socket).await {
                Poll::Ready(Err(e)) => e.kind(),
                other => panic!("{other:?}"),
            };
            assert_eq!(error, io::ErrorKind::TimedOut);
        }
    }

    #[tokio::test]
    async fn small_writes_go_at_once_and_a_vanished_client_is_noticed() {
        let (_client, socket) = connected().await;
        assert!(socket.stream.nodelay().expect("known"));
        let kernel = SockRef::from(&socket.stream);
        assert!(kernel.keepalive().expect("known"));
        assert_eq!(kernel.tcp_keepalive_time().expect("known"), KEEPALIVE);
        #[cfg(target_os = "linux")]
        assert_eq!(kernel.tcp_user_timeout().expect("known"), Some(GONE));
    }
}
