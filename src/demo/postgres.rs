//! A PostgreSQL of one's own, for the demo and the tests: a cluster in a temporary directory, on a free port, gone when
//! the process is, however that ends.
//!
//! A shell stands between, the keeper: it starts the server, says so, waits for the end of its standard input (which
//! comes when this process dies, even by `kill -9`), stops the server and removes the directory.

use std::io::{self, Read};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tokio_postgres::NoTls;

/// Arguments: the binaries, the directory, the server's options.
const KEEPER: &str = r#"
trap '' INT TERM HUP PIPE
bin=$1 dir=$2 options=$3
fail() { tail -n 5 "$dir/log" >&2; rm -rf "$dir"; exit 1; }
"$bin/initdb" -D "$dir/data" --no-sync -U postgres -A trust -E UTF8 --locale=C.UTF-8 >"$dir/log" 2>&1 || fail
"$bin/pg_ctl" -D "$dir/data" -w -l "$dir/log" -o "$options" start >/dev/null </dev/null || fail
echo up
read -r _
"$bin/pg_ctl" -D "$dir/data" -w -m immediate stop >/dev/null
rm -rf "$dir"
"#;

#[derive(Debug)]
pub struct Postgres {
    keeper: Child,
    port: u16,
}

#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    #[error(
        "no PostgreSQL server binaries on PATH or under /usr/lib/postgresql/*/bin: \
         install them (Debian, Ubuntu: apt-get install postgresql)"
    )]
    NoBinaries,
    #[error(
        "PostgreSQL refuses to run as root, and there is no user `postgres` or `nobody` to run it as"
    )]
    NoUser,
    #[error("cannot start PostgreSQL")]
    Io(#[from] io::Error),
    #[error("PostgreSQL did not start: {0}")]
    NotStarted(String),
    #[error(transparent)]
    Sql(#[from] tokio_postgres::Error),
}

impl Postgres {
    /// Starts a cluster with these settings (`name=value`) on top of harmless defaults.
    pub async fn start(settings: &[&str]) -> Result<Self, PostgresError> {
        let bin = binaries().ok_or(PostgresError::NoBinaries)?;
        let directory =
            std::env::temp_dir().join(format!("agent-sync-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&directory)?;
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o700))?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();

        let place = [
            format!("port={port}"),
            format!("unix_socket_directories={}", directory.display()),
        ];
        let options: String = ["listen_addresses=127.0.0.1", "fsync=off", "timezone=UTC"]
            .into_iter()
            .chain(place.iter().map(String::as_str))
            .chain(settings.iter().copied())
            .map(|setting| format!("-c {setting} "))
            .collect();
        let mut command = Command::new("sh");
        command
            .args(["-c", KEEPER, "sh"])
            .arg(&bin)
            .arg(&directory)
            .arg(&options);
        if is_root(&directory)? {
            let (uid, gid) = unprivileged_user().ok_or(PostgresError::NoUser)?;
            chown(&directory, Some(uid), Some(gid))?;
            command.uid(uid).gid(gid);
        }
        // In a process group of its own, so that Ctrl-C at the terminal reaches only us.
        command.process_group(0).current_dir(&directory);
        let keeper = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let postgres = Self { keeper, port };
        tokio::task::spawn_blocking(|| postgres.wait_until_up())
            .await
            .map_err(|e| PostgresError::NotStarted(e.to_string()))?
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgresql://postgres@127.0.0.1:{}/{database}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs statements on a connection of their own.
    pub async fn execute(&self, database: &str, statements: &str) -> Result<(), PostgresError> {
        let (client, connection) = tokio_postgres::connect(&self.url(database), NoTls).await?;
        let connection = tokio::spawn(connection);
        let done = client.batch_execute(statements).await;
        drop(client);
        let _ = connection.await;
        Ok(done?)
    }

    /// Stops the server and waits until nothing is left of it.
    pub fn stop(mut self) {
        self.end();
    }

    /// The keeper says "up", or ends and says why not.
    fn wait_until_up(mut self) -> Result<Self, PostgresError> {
        let mut said = [0; 3];
        let up = self
            .keeper
            .stdout
            .as_mut()
            .map(|stdout| stdout.read_exact(&mut said));
        if matches!(up, Some(Ok(()))) && &said == b"up\n" {
            return Ok(self);
        }
        let mut reason = String::new();
        if let Some(stderr) = self.keeper.stderr.as_mut() {
            stderr.read_to_string(&mut reason)?;
        }
        Err(PostgresError::NotStarted(
            reason.lines().collect::<Vec<_>>().join(" | "),
        ))
    }

    fn end(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.end();
    }
}

/// Where `initdb` and `postgres` are: on `PATH`, or the newest of Debian's.
fn binaries() -> Option<PathBuf> {
    let complete = |bin: &Path| {
        ["initdb", "postgres", "pg_ctl"]
            .iter()
            .all(|name| bin.join(name).is_file())
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(bin) = std::env::split_paths(&path).find(|bin| complete(bin)) {
        // A link on PATH stands for the directory it points into: the server looks for its files beside itself.
        return std::fs::canonicalize(bin.join("postgres"))
            .ok()?
            .parent()
            .map(Path::to_owned);
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    versions
        .filter_map(|version| {
            let version = version.ok()?;
            Some((
                version.file_name().to_str()?.parse::<f64>().ok()?,
                version.path().join("bin"),
            ))
        })
        .filter(|(_, bin)| complete(bin))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, bin)| bin)
}

/// Whether we are root: then so is what we have just made.
fn is_root(made: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata(made)?.uid() == 0)
}

/// The uid and gid of `postgres`, else `nobody`.
fn unprivileged_user() -> Option<(u32, u32)> {
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    ["postgres", "nobody"].into_iter().find_map(|name| {
        let fields: Vec<&str> = passwd
            .lines()
            .map(|line| line.split(':').collect())
            .find(|fields: &Vec<&str>| fields[0] == name)?;
        Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
    })
}
