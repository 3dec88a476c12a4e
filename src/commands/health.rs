//! `agent-sync health`: asks the admin server of a running worker, where this one's configuration says that it is. For a container's
//! health check, whose image has no curl; so nothing else of the configuration needs to be right, and little has to be started.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Exit;
use crate::config::{self, ADMIN_ADDR, Variables};

/// How long all of it may take. The worker has an answer within two seconds.
const DEADLINE: Duration = Duration::from_secs(5);

/// More than any answer is.
const LONGEST: usize = 64 * 1024;

/// Says in one line how it is. A container's health check knows well and not well only.
pub fn run(live: bool, variables: &Variables) -> Exit {
    match ask(live, variables) {
        Ok(()) => {
            println!("{}", if live { "live" } else { "ready" });
            Exit::Well
        }
        Err(why) => {
            eprintln!("agent-sync: {}", why.replace(['\r', '\n'], " "));
            Exit::Failure
        }
    }
}

fn ask(live: bool, variables: &Variables) -> Result<(), String> {
    let address = config::admin_addr(variables).map_err(|e| format!("{ADMIN_ADDR}: {e}"))?;
    if address.port() == 0 {
        return Err(format!(
            "{ADMIN_ADDR} has port 0, which is any that is free: nobody knows which to ask. Name one"
        ));
    }
    let (path, word) = match live {
        true => ("/live", "live"),
        false => ("/ready", "ready"),
    };
    let answer = exchange(address, path).map_err(|e| {
        format!("the worker's admin server does not answer at {address} ({ADMIN_ADDR}): {e}")
    })?;
    judge(&answer, word).unwrap_or_else(|| {
        Err(format!(
            "what answers at {address} ({ADMIN_ADDR}) is no agent-sync"
        ))
    })
}

/// `None`: it is not agent-sync who says this.
fn judge(answer: &str, word: &str) -> Option<Result<(), String>> {
    let (_, body) = answer.split_once("\r\n\r\n")?;
    let body: Value = serde_json::from_str(body).ok()?;
    if body.get(word)?.as_bool()? {
        return Some(Ok(()));
    }
    let reasons = body.get("reasons").and_then(Value::as_array)?;
    let reasons: Vec<&str> = reasons.iter().filter_map(Value::as_str).collect();
    Some(Err(format!("not {word}: {}", reasons.join("; "))))
}

fn exchange(address: SocketAddr, path: &str) -> io::Result<String> {
    let deadline = Instant::now() + DEADLINE;
    let mut stream = connect(address, deadline)?;
    stream.set_write_timeout(Some(left(deadline)?))?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let (mut answer, mut some) = (Vec::new(), [0; 4096]);
    while answer.len() < LONGEST {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut some) {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(&some[..n]),
            // So a timeout is called: what is left is nothing.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Where a server listens on all addresses, on this machine's own.
fn connect(address: SocketAddr, deadline: Instant) -> io::Result<TcpStream> {
    let own: &[IpAddr] = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => &[IpAddr::V4(Ipv4Addr::LOCALHOST)],
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => &[
            IpAddr::V6(Ipv6Addr::LOCALHOST),
            IpAddr::V4(Ipv4Addr::LOCALHOST),
        ],
        ip => &[ip],
    };
    let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for ip in own {
        let address = SocketAddr::new(*ip, address.port());
        match TcpStream::connect_timeout(&address, left(deadline)?) {
            Ok(stream) => return Ok(stream),
            Err(e) => failed = e,
        }
    }
    Err(failed)
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    match left.is_zero() {
        true => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no answer within {} s", DEADLINE.as_secs()),
        )),
        false => Ok(left),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_believed_only_where_it_is_ours() {
        let answer = |body: &str| format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{body}");
        assert_eq!(
            judge(&answer(r#"{"ready": true, "reasons": []}"#), "ready"),
            Some(Ok(()))
        );
        assert_eq!(
            judge(
                &answer(r#"{"ready": false, "reasons": ["a", "b"]}"#),
                "ready"
            ),
            Some(Err("not ready: a; b".to_owned()))
        );
        for other in [
            "",
            "HTTP/1.1 200 OK",
            &answer("<html>"),
            &answer("{}"),
            &answer(r#"{"ready": 1}"#),
        ] {
            assert_eq!(judge(other, "ready"), None, "{other}");
        }
    }
}
