//! A connection to ask questions on. It writes nothing: each question is a read-only transaction of its own.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::{Client, Config, Row};
use tokio_util::task::AbortOnDropHandle;

use crate::database::{DatabaseUrl, Error, Param};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

const BEGIN: &str = "begin isolation level read committed, read only; \
     select set_config('statement_timeout', '8s', true), set_config('lock_timeout', '2s', true), \
     set_config('search_path', '', true)";

pub struct Session {
    /// As it was opened: with the TLS that the server has, and whether or not it may be written to.
    pub config: Config,
    pub url: DatabaseUrl,
    pub is_encrypted: bool,
    client: Client,
    _connection: AbortOnDropHandle<()>,
}

impl Session {
    /// Opens one, and drives it.
    pub async fn open(
        url: &DatabaseUrl,
        config: &Config,
        is_encrypted: bool,
    ) -> Result<Self, tokio_postgres::Error> {
        let (client, connection) = config.connect(url.tls().connector()).await?;
        let driven = tokio::spawn(async move {
            // What is lost is told to whoever asks.
            let _ = connection.await;
        });
        Ok(Self {
            config: config.clone(),
            url: url.clone(),
            is_encrypted,
            client,
            _connection: AbortOnDropHandle::new(driven),
        })
    }

    pub async fn ask(&self, statement: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Error> {
        let asking = async {
            let (begun, rows, ended) = futures::join!(
                self.client.batch_execute(BEGIN),
                self.client.query_typed(statement, params),
                self.client.batch_execute("rollback"),
            );
            begun?;
            let rows = rows?;
            ended?;
            Ok(rows)
        };
        let late = || {
            Err(Error::Pool(format!(
                "no answer within {} s",
                PATIENCE.as_secs()
            )))
        };
        timeout(PATIENCE, asking).await.unwrap_or_else(|_| late())
    }

    /// A question with one row for an answer.
    pub async fn ask_one(&self, statement: &str) -> Result<Row, Error> {
        let rows = self.ask(statement, &[]).await?;
        rows.into_iter()
            .next()
            .ok_or_else(|| Error::Setup("an answer without a row".to_owned()))
    }

    /// Whether a worker could work there.
    pub fn is_writable(&self) -> bool {
        self.config.get_target_session_attrs() == TargetSessionAttrs::ReadWrite
    }

    /// What runs outside of a transaction.
    pub fn client(&self) -> &Client {
        &self.client
    }
}
