//! A real pgbouncer before the database, in transaction mode.

use std::net::TcpListener;
use std::path::PathBuf;

use tokio::process::{Child, Command};

use super::TestDatabase;

pub struct Pgbouncer {
    /// Of the same database, through the pooler.
    pub url: String,
    pub port: u16,
    directory: PathBuf,
    _child: Child,
}

impl Pgbouncer {
    pub async fn before(database: &TestDatabase) -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|l| l.local_addr())
            .expect("a port")
            .port();
        let directory = std::env::temp_dir().join(format!("agent-sync-pgbouncer-{port}"));
        std::fs::create_dir(&directory).expect("a directory");
        let (server, name) = (database.port(), database.name());
        let user = database.role.name();
        let settings = directory.join("pgbouncer.ini");
        let text = format!(
            "[databases]\n{name} = host=127.0.0.1 port={server} user={user}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\ndefault_pool_size = 4\n\
             server_login_retry = 1\n"
        );
        std::fs::write(&settings, text).expect("written");
        let mut command = Command::new("/usr/sbin/pgbouncer");
        // It refuses to run as root, as the server does.
        if std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&directory).expect("made")) == 0 {
            command.args(["-u", "nobody"]);
        }
        let child = command
            .arg("-q")
            .arg(&settings)
            .kill_on_drop(true)
            .spawn()
            .expect("pgbouncer starts");
        let url = database.url_by_way_of(format_args!("127.0.0.1:{port}"));
        super::eventually("pgbouncer answers", || async {
            match tokio_postgres::connect(&url, tokio_postgres::NoTls).await {
                Ok(_) => Ok(()),
                Err(e) => Err(e.to_string()),
            }
        })
        .await;
        Self {
            url,
            port,
            directory,
            _child: child,
        }
    }
}

impl Drop for Pgbouncer {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
