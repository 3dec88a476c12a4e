//! `agent-sync serve`: what runs, in which order it starts, and in which order it stops.
//!
//! Starting: bind → answer `/live` → database → scope → listen → startup pass and change loop, side by side. Whatever
//! fails after binding is logged, survived and tried again.
//!
//! Stopping: take no new work → finish the batch and the requests in hand, at most [`GRACE`] → done. What is cut off is
//! rolled back by the database, and claimed again by whoever comes next.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::access::Access;
use crate::activity::Activity;
use crate::changes::{self, listener};
use crate::config::{self, Config, Limits, Tenancy};
use crate::database::migrations::{self, Left};
use crate::database::{Database, DatabaseUrl, Error};
use crate::http::admin::{Admin, Watched, agents::Agents};
use crate::http::api::{Api, Served};
use crate::http::assistants::Assistants;
use crate::http::auth::Authenticator;
use crate::http::health::Health;
use crate::http::relay::Relay;
use crate::http::upstream::Upstream;
use crate::http::{self, url::HttpUrl};
use crate::metrics::{Metrics, Pass};
use crate::pass::{self, Extent};
use crate::readiness::Readiness;
use crate::retry::{self, Backoff};
use crate::scope::{Scope, ScopeError};
use crate::status::Subject;
use crate::store::{self, Place, Store, langgraph::Server};
use crate::syncer::{self, Syncer};

/// How long what is in hand may take once the worker was told to stop.
pub const GRACE: Duration = Duration::from_secs(10);

/// How long setting up may take, before it is begun anew.
const SET_UP: Duration = Duration::from_secs(120);

/// How long setting up waits for a customer's table that is locked, before the pass runs without its triggers.
const TRIGGER_PATIENCE: Duration = Duration::from_secs(2);

/// How many connections to the database the admin server has.
const ADMIN_CONNECTIONS: usize = 2;

/// How many connections a worker takes at most: one of them listens, and one has the bell.
pub const CONNECTIONS: usize =
    crate::database::POOL_SIZE + 1 + 1 + crate::access::CONNECTIONS + ADMIN_CONNECTIONS;

/// A worker whose addresses are bound; nothing runs yet.
#[derive(Debug)]
pub struct Worker {
    config: Config,
    http: TcpListener,
    admin: TcpListener,
    readiness: Arc<Readiness>,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({variable})")]
pub struct BindError {
    address: SocketAddr,
    variable: &'static str,
    source: std::io::Error,
}

impl Worker {
    pub async fn bind(config: Config) -> Result<Self, BindError> {
        let http = bind(config.http_addr, config::HTTP_ADDR).await?;
        let admin = bind(config.admin_addr, config::ADMIN_ADDR).await?;
        Ok(Self {
            config,
            http,
            admin,
            readiness: Arc::default(),
        })
    }

    /// The address of the API, with the real port where 0 was asked for.
    pub fn http_addr(&self) -> SocketAddr {
        self.http.local_addr().unwrap_or(self.config.http_addr)
    }

    pub fn admin_addr(&self) -> SocketAddr {
        self.admin.local_addr().unwrap_or(self.config.admin_addr)
    }

    /// Turns to ready once the first pass has ended.
    pub fn readiness(&self) -> Arc<Readiness> {
        self.readiness.clone()
    }

    /// Runs until `shutdown` is called and what was in hand is finished.
    pub async fn run(self, shutdown: CancellationToken) {
        info!(version = env!("CARGO_PKG_VERSION"), api = %self.http_addr(), admin = %self.admin_addr(), "agent-sync started");
        let authentication = &self.config.authentication;
        for warning in authentication.warnings(self.config.dev, self.http_addr()) {
            warn!("{warning}");
        }
        let Self {
            config,
            http,
            admin,
            readiness,
        } = self;
        let tasks = TaskTracker::new();
        let database = config.database.as_ref().map(Database::new);
        let place = place(&config);
        let (activity, metrics) = (Arc::new(Activity::default()), Arc::new(Metrics::default()));
        let syncer = database.clone().map(|database| {
            let syncer = syncer(&config, database, place.clone());
            Arc::new(syncer.telling(activity.clone(), metrics.clone()))
        });
        let authenticator = Arc::new(Authenticator::new(&config.authentication, config.dev));
        let api = api(
            &config,
            place.clone(),
            database,
            syncer.clone(),
            authenticator.clone(),
            metrics.clone(),
        );

        // Of its own: however many wait for a connection to sync, or for an assistant, it is not said that the database is away.
        let looking = config.database.as_ref();
        let looking =
            looking.map(|url| Database::sized(&url.named("agent-sync admin"), ADMIN_CONNECTIONS));
        let watched = Watched {
            readiness: readiness.clone(),
            subject: Subject::new(&config, looking.clone()),
            agents: Agents::new(looking.clone()),
            database: looking,
            place,
            syncer: syncer.clone(),
            authenticator: authenticator.clone(),
            upstreams: api.upstreams(),
            activity,
            metrics,
            started_at: OffsetDateTime::now_utc(),
        };
        let admin_api = Arc::new(Admin::new(watched, shutdown.clone()));
        let history = admin_api.clone();
        tasks.spawn(history.keep_history(shutdown.clone()));
        // Of its own: an attack on the API makes no probe fail.
        let limits = Limits {
            max_connections: 64,
            max_requests: 16,
            ..Limits::default()
        };
        tasks.spawn(http::serve(admin, admin_api, limits, shutdown.clone()));
        tasks.spawn(authenticator.keep_keys(readiness.clone(), shutdown.clone()));
        tasks.spawn(http::serve(
            http,
            Arc::new(api),
            config.limits.clone(),
            shutdown.clone(),
        ));

        match syncer.zip(config.database.clone()) {
            Some((syncer, url)) => {
                let shutdown = shutdown.clone();
                tasks.spawn(async move {
                    keep_synced(&config, &url, &syncer, &readiness, &shutdown).await
                });
            }
            None => {
                info!(
                    "{} is not set: assistants are kept in memory, nothing is synced",
                    config::DATABASE_URL
                );
                readiness.first_pass_ended();
            }
        }

        shutdown.cancelled().await;
        info!("stopping: finishing what is in hand");
        tasks.close();
        if tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
            warn!(
                "not everything was finished in {} s; it is rolled back and done again later",
                GRACE.as_secs()
            );
        }
        info!("stopped");
    }
}

/// Where assistants live.
pub fn place(config: &Config) -> Place {
    match &config.store {
        config::Store::Postgres => Place::Table,
        config::Store::Memory => Place::Memory(Arc::default()),
        config::Store::LangGraph(server) => Place::Server(Arc::new(Server::new(server))),
    }
}

/// What clients talk to.
fn api(
    config: &Config,
    place: Place,
    database: Option<Database>,
    syncer: Option<Arc<Syncer>>,
    authenticator: Arc<Authenticator>,
    metrics: Arc<Metrics>,
) -> Api {
    let upstream = |url: &HttpUrl| Arc::new(Upstream::new(url.without_user(), &config.limits));
    let health = Health::new(database.clone());
    let assistants = match (place, &syncer, &config.store) {
        (Place::Server(server), Some(syncer), config::Store::LangGraph(target)) => {
            Served::There(Relay {
                upstream: upstream(&target.url),
                server,
                syncer: syncer.clone(),
                authenticator,
            })
        }
        (place, ..) => Served::Here(Assistants {
            store: match (place, database) {
                (Place::Memory(memory), _) => Store::Memory(memory),
                (_, Some(database)) => Store::Postgres(database),
                (_, None) => Store::Memory(Arc::default()),
            },
            syncer,
            authenticator,
            health,
        }),
    };
    let upstream = match (&config.upstream, &assistants) {
        (Some(url), _) => Some(upstream(url)),
        // A client finds in front of the server what it finds there.
        (None, Served::There(relay)) => Some(relay.upstream.clone()),
        (None, Served::Here(_)) => None,
    };
    Api {
        assistants,
        upstream,
        cors: http::Cors(config.cors_origins.clone()),
        metrics,
    }
}

/// What syncs, as it is configured.
pub fn syncer(config: &Config, database: Database, place: Place) -> Syncer {
    Syncer::new(database, access(config), config.sync.clone()).writing_to(place)
}

/// How users' access to agents is decided.
fn access(config: &Config) -> Access {
    let Tenancy {
        authenticator,
        authorize,
        recheck,
    } = &config.tenancy;
    match authenticator.as_ref().or(config.database.as_ref()) {
        Some(url) if !config.dev => Access::new(url, *authorize, *recheck),
        _ => Access::open(),
    }
}

async fn bind(address: SocketAddr, variable: &'static str) -> Result<TcpListener, BindError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| BindError {
            address,
            variable,
            source,
        })
}

/// Everything that the worker does of its own accord.
async fn keep_synced(
    config: &Config,
    url: &DatabaseUrl,
    syncer: &Syncer,
    readiness: &Readiness,
    shutdown: &CancellationToken,
) {
    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));
    let left = loop {
        match syncer.database.within(SET_UP, set_up(config, syncer)).await {
            Ok(left) => break left,
            Err(e) => {
                let pause = backoff.pause();
                error!(error = %e, retry_in_ms = pause.as_millis(), "the database is not ready");
                readiness.waiting_for(format!("the database is not ready: {e}"));
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = shutdown.cancelled() => return,
                }
            }
        }
    };

    // Each is woken for itself: an edit's sync is woken a dozen times, and to ask all the others whether they have anything to do would take
    // longer than what it has to do itself.
    let work = [
        passes(config, syncer, readiness, left, shutdown).boxed(),
        changes::run(syncer, readiness, shutdown).boxed(),
    ];
    let others = [
        listener::run(url, &syncer.database, &syncer.doorbell).boxed(),
        warn_of_users(config, syncer).boxed(),
        syncer.write_back.retry().boxed(),
        syncer.place().watch().boxed(),
    ];
    let mut working = work.len();
    let work = work.into_iter().map(|work| work.map(|()| true).boxed());
    let others = others
        .into_iter()
        .map(|other| other.map(|()| false).boxed());
    let mut all: FuturesUnordered<_> = work.chain(others).collect();
    // The work ends by itself, after the batch in hand; the others may be dropped at any point.
    while working > 0 {
        let was_work = all.next().await;
        working -= usize::from(was_work.unwrap_or(true));
    }
}

/// Says what keeps users from their agents. Asking may take its time: nobody waits for that.
async fn warn_of_users(config: &Config, syncer: &Syncer) {
    if !config.authentication.has_keys() {
        return;
    }
    if let Err(e) = syncer.check_access().await {
        error!(error = %e, "no user can be given an agent (lazy sync)");
    }
    if config.tenancy.recheck {
        warn_of_unknown_users(syncer).await;
    }
}

/// Policies may go by what a token says of `app_metadata`, and whose users are not here have no token.
async fn warn_of_unknown_users(syncer: &Syncer) {
    let looking = async {
        let client = syncer.database.client().await?;
        let shape = syncer.source.shape(&client).await?;
        client.give_back();
        Ok::<_, Error>(shape.has_users())
    };
    if let Ok(false) = looking.await {
        warn!(
            "auth.users is not there, or this role may not read it: if policies of public.agents go by app_metadata, users lose their assistants at the next \
             resync. Grant it (sql/roles.sql), or set {}=false",
            config::RECHECK_ACCESS
        );
    }
}

/// Makes the database ready, and stores the scope. Returns the triggers that are still missing.
async fn set_up(config: &Config, syncer: &Syncer) -> Result<Left, Error> {
    let left = prepare(config, syncer).await?;
    if let Ok(scope) = &config.scope {
        let client = syncer.database.client().await?;
        share_scope(&client, scope).await?;
        client.give_back();
    }
    Ok(left)
}

/// Looks at the source tables, and migrates. Returns the triggers that are still missing.
pub async fn prepare(config: &Config, syncer: &Syncer) -> Result<Left, Error> {
    let database = &syncer.database;
    // First: nothing of ours is left in a database that turns out to be another one.
    let client = database.client().await?;
    syncer.source.inspect(&client).await?;
    client.give_back();
    if config.auto_migrate {
        return install(database).await;
    }
    let missing = migrations::missing(database).await?;
    if missing.is_empty() {
        return Ok(Left::default());
    }
    Err(Error::Setup(format!(
        "missing: {}. Run `agent-sync migrate`, or apply the output of `agent-sync migrate --print` ({} is false)",
        missing.join(", "),
        config::AUTO_MIGRATE,
    )))
}

/// Installs what it may, and says what only somebody else may.
async fn install(database: &Database) -> Result<Left, Error> {
    let left = migrations::migrate(database, TRIGGER_PATIENCE).await?;
    if !left.denied.is_empty() {
        warn!(
            missing = left.denied.join(", "),
            "only the owner of these tables can install their triggers: run `agent-sync migrate` as that role. Until then what is \
             edited in them is found by a resync ({}), and by nothing sooner",
            config::RESYNC_INTERVAL
        );
    }
    Ok(left)
}

/// All workers on one database share one scope: whoever starts last says which.
async fn share_scope(client: &tokio_postgres::Client, scope: &Scope) -> Result<(), Error> {
    let before = syncer::stored_scope(client).await?;
    let text = scope.to_string();
    client
        .execute_typed(
            crate::sql!("store_scope"),
            &[(&text, tokio_postgres::types::Type::TEXT)],
        )
        .await?;
    if let Some(before) = before.filter(|before| before != scope) {
        warn!(%before, now = %scope, "the scope has changed, for all workers on this database");
    }
    Ok(())
}

/// The startup pass, again and again until one got through; and then a resync at every interval.
async fn passes(
    config: &Config,
    syncer: &Syncer,
    readiness: &Readiness,
    mut left: Left,
    shutdown: &CancellationToken,
) {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    loop {
        let passed = startup(config, syncer, readiness, shutdown).await;
        // Non-fatal: a pass that failed is over, and so is the wait for it.
        readiness.first_pass_ended();
        // For what only somebody else can install, the resyncs have to do.
        if passed && left.locked.is_empty() {
            break;
        }
        let pause = async {
            syncer.place().opened().await;
            tokio::time::sleep(backoff.pause()).await;
        };
        tokio::select! {
            () = pause => {}
            () = shutdown.cancelled() => return,
        }
        if !left.locked.is_empty() {
            // What was edited before its trigger stood is found by the pass that follows.
            let installing = migrations::migrate(&syncer.database, TRIGGER_PATIENCE);
            match syncer.database.within(SET_UP, installing).await {
                Ok(now) => left = now,
                Err(e) => {
                    warn!(error = %e, "triggers are still missing: {}", left.locked.join(", "))
                }
            }
        }
    }
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    let mut again = false;
    loop {
        let wait = match again {
            true => Some(backoff.pause()),
            false => config.resync_interval.map(retry::jittered),
        };
        let waiting = async {
            sleep(wait).await;
            syncer.place().opened().await;
        };
        tokio::select! {
            () = waiting => {}
            () = syncer.place().lost() => {
                info!("the LangGraph server may have lost assistants: all agents are looked at");
                again = true;
            }
            () = shutdown.cancelled() => return,
        }
        let resync = Box::pin(resync(config, syncer, shutdown));
        match counted(syncer, Pass::Resync, shutdown, resync).await {
            Ok(()) => {
                again = false;
                backoff.reset();
            }
            // Of that place it was told where it was found out.
            Err(Error::Server { .. }) => again = true,
            Err(e) if again => error!(error = %e, "the resync failed, it is tried again"),
            Err(e) => {
                error!(error = %e, "the resync failed, and is done again at the next interval")
            }
        }
    }
}

/// `None`: for ever.
async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

/// True when there is no need for another try.
async fn startup(
    config: &Config,
    syncer: &Syncer,
    readiness: &Readiness,
    shutdown: &CancellationToken,
) -> bool {
    let scope = match &config.scope {
        Ok(Scope::None) => {
            info!("agent sync disabled ({}=none)", config::SCOPE);
            return true;
        }
        Err(ScopeError { entry }) => {
            warn!(
                entry,
                "{} is invalid, the startup pass is skipped: use none, all, or org:<uuid>[,org:<uuid>...]",
                config::SCOPE,
            );
            return true;
        }
        Ok(scope) => scope,
    };
    readiness.waiting_for("the startup pass is running");
    let passing = Box::pin(pass::run(syncer, scope, Extent::Reach, shutdown));
    match counted(syncer, Pass::Startup, shutdown, passing).await {
        Ok(_) if shutdown.is_cancelled() => true,
        Ok(summary) => {
            info!("Startup sync summary: {summary}");
            true
        }
        Err(e) => {
            // Of that place it was told where it was found out.
            if !matches!(e, Error::Server { .. }) {
                error!(error = %e, "the startup pass failed; the worker goes on and tries it again");
            }
            false
        }
    }
}

/// A pass that counts, unless it is called off.
async fn counted<T>(
    syncer: &Syncer,
    which: Pass,
    shutdown: &CancellationToken,
    pass: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let began = Instant::now();
    let passed = pass.await;
    if !shutdown.is_cancelled() {
        let metrics = &syncer.metrics;
        metrics.pass(which, passed.is_ok(), began.elapsed());
    }
    passed
}

/// Finds what nothing announced: edits made while triggers were dropped or silenced, assistants edited behind our back.
async fn resync(
    config: &Config,
    syncer: &Syncer,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    let looking = async {
        let missing = if config.auto_migrate {
            install(&syncer.database).await?.locked
        } else {
            migrations::missing(&syncer.database).await?
        };
        let client = syncer.database.client().await?;
        syncer.source.inspect(&client).await?;
        let scope = syncer::stored_scope(&client).await?.unwrap_or_default();
        client.give_back();
        Ok((missing, scope))
    };
    let (missing, scope) = syncer.database.within(SET_UP, looking).await?;
    if !missing.is_empty() {
        warn!(
            missing = missing.join(", "),
            "edits may go unnoticed until the next resync: run `agent-sync migrate`"
        );
    }
    let summary = pass::run(syncer, &scope, Extent::Reach, shutdown).await?;
    if summary.is_effective() {
        info!("Resync summary: {summary}");
    }
    store::sweep_versions(&syncer.database).await
}
