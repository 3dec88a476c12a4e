//! DNS and TCP: whether anything answers.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_postgres::config::Host;

use crate::config::DATABASE_URL;
use crate::database::DatabaseUrl;
use crate::doctor::{Found, Patient, Verdict};

/// How long looking a host up may take, and connecting to it.
const PATIENCE: Duration = Duration::from_secs(5);

/// What came of a TCP connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Knock {
    Answers {
        is_here: bool,
    },
    /// No such host, in the resolver's words.
    Unknown(String),
    Refused,
    Silent,
    /// There is no way there. `only_ipv6`: the host has no other address.
    NoWay {
        only_ipv6: bool,
    },
    Other(String),
}

/// At each host.
pub async fn knock(url: &DatabaseUrl) -> Vec<(String, Knock)> {
    let config = url.config();
    let ports = config.get_ports();
    let port = |place: usize| *ports.get(place).or(ports.first()).unwrap_or(&5432);
    let addresses = config.get_hostaddrs().iter().map(ToString::to_string);
    let mut hosts: Vec<String> = addresses.collect();
    if hosts.is_empty() {
        hosts.extend(config.get_hosts().iter().map(|host| match host {
            Host::Tcp(name) => name.clone(),
            #[cfg(unix)]
            Host::Unix(path) => path.display().to_string(),
        }));
    }
    let knocks = hosts.into_iter().enumerate().map(async |(place, host)| {
        let port = port(place);
        let shown = match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
        // A socket in a directory of this machine.
        match host.starts_with('/') {
            true => (shown, Knock::Answers { is_here: true }),
            false => (shown, knock_at(&host, port).await),
        }
    });
    futures::future::join_all(knocks).await
}

async fn knock_at(host: &str, port: u16) -> Knock {
    let addresses: Vec<SocketAddr> = match timeout(PATIENCE, lookup_host((host, port))).await {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(e)) => return Knock::Unknown(e.to_string()),
        Err(_) => return Knock::Unknown("the name server does not answer".to_owned()),
    };
    let only_ipv6 = addresses.iter().all(SocketAddr::is_ipv6);
    let mut knock = Knock::Unknown("it has no address".to_owned());
    for address in addresses {
        knock = match timeout(PATIENCE, TcpStream::connect(address)).await {
            Ok(Ok(_)) => {
                return Knock::Answers {
                    is_here: address.ip().is_loopback(),
                };
            }
            Err(_) => Knock::Silent,
            Ok(Err(e)) => match e.kind() {
                io::ErrorKind::ConnectionRefused => Knock::Refused,
                io::ErrorKind::TimedOut => Knock::Silent,
                io::ErrorKind::NetworkUnreachable
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::AddrNotAvailable => Knock::NoWay { only_ipv6 },
                _ => Knock::Other(e.to_string()),
            },
        };
    }
    knock
}

pub async fn check(patient: &Patient<'_>) -> Found {
    Ok(judge(&patient.connection()?.hosts))
}

fn judge(hosts: &[(String, Knock)]) -> Verdict {
    let (answering, silent): (Vec<_>, Vec<_>) = hosts
        .iter()
        .partition(|(_, knock)| matches!(knock, Knock::Answers { .. }));
    let Some((host, knock)) = silent.first() else {
        let all: Vec<&str> = hosts.iter().map(|(host, _)| host.as_str()).collect();
        return Verdict::ok(format!("{} answers", all.join(", ")));
    };
    let (what, mend) = complaint(host, knock);
    match answering.is_empty() {
        true => Verdict::wrong(what, mend),
        false => Verdict::warning(
            format!("{what}; another host of {DATABASE_URL} answers"),
            mend,
        ),
    }
}

fn complaint(host: &str, knock: &Knock) -> (String, String) {
    let (name, port) = host.rsplit_once(':').unwrap_or((host, "5432"));
    let name = name.trim_matches(['[', ']']);
    match knock {
        Knock::Answers { .. } => (format!("{host} answers"), String::new()),
        Knock::Unknown(why) => (
            format!("no host {name} can be found ({why})"),
            format!(
                "getent hosts {name}   # is it written as in Supabase's dashboard (Connect), and is the project running? A paused one has no host"
            ),
        ),
        Knock::Refused => (
            format!("nothing listens on {host} (connection refused)"),
            format!("pg_isready -h {name} -p {port}   # is the server up, and is that its port?"),
        ),
        Knock::Silent => (
            format!("{host} does not answer within {} s", PATIENCE.as_secs()),
            format!(
                "nc -vz {name} {port}   # is a firewall in between, or does the project let in some networks only (Supabase: Database, Network \
                 restrictions)?"
            ),
        ),
        Knock::NoWay { only_ipv6: true } => (
            format!("{name} has IPv6 addresses only, and this machine has no way there"),
            format!(
                "in {DATABASE_URL}, use the session pooler's host, which has IPv4 (Supabase: Connect, \"Session pooler\", port 5432)"
            ),
        ),
        Knock::NoWay { only_ipv6: false } => (
            format!("this machine has no way to {host}"),
            format!("ip route get \"$(getent hosts {name} | cut -d ' ' -f 1)\""),
        ),
        Knock::Other(why) => (
            format!("{host} cannot be reached: {why}"),
            format!("nc -vz {name} {port}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, knock: Knock) -> (String, Knock) {
        (name.to_owned(), knock)
    }

    #[test]
    fn each_way_not_to_answer_is_told_with_what_to_do() {
        for (knock, what, mend) in [
            (
                Knock::Unknown("no".to_owned()),
                "no host db.x can be found (no)",
                "getent hosts db.x ",
            ),
            (
                Knock::Refused,
                "nothing listens on db.x:5433",
                "pg_isready -h db.x -p 5433",
            ),
            (
                Knock::Silent,
                "does not answer within 5 s",
                "nc -vz db.x 5433",
            ),
            (
                Knock::NoWay { only_ipv6: true },
                "IPv6 addresses only",
                "session pooler",
            ),
            (
                Knock::NoWay { only_ipv6: false },
                "no way to db.x:5433",
                "ip route get",
            ),
            (
                Knock::Other("odd".to_owned()),
                "cannot be reached: odd",
                "nc -vz",
            ),
        ] {
            let Verdict::Wrong(complaint) = judge(&[host("db.x:5433", knock)]) else {
                panic!("wrong: {what}");
            };
            assert!(complaint.what.contains(what), "{complaint:?}");
            assert!(complaint.mend.contains(mend), "{complaint:?}");
        }
        let (_, mend) = complaint("[::1]:5432", &Knock::Refused);
        assert!(mend.starts_with("pg_isready -h ::1 -p 5432"), "{mend}");
    }

    #[test]
    fn one_of_several_hosts_will_do() {
        let up = || host("a:1", Knock::Answers { is_here: false });
        assert_eq!(judge(&[up(), up()]), Verdict::ok("a:1, a:1 answers"));
        let verdict = judge(&[host("b:1", Knock::Refused), up()]);
        assert!(matches!(verdict, Verdict::Warning(_)), "{verdict:?}");
    }
}
