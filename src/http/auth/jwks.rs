//! A project's published keys, kept fresh.
//!
//! One task, [`Jwks::keep`], fetches: at start, every few minutes, again and again while that fails, and when a request
//! names a key that is not known. Requests only read, and wait at most for the fetch that their own key may come with.
//! So two fetches never overlap, and a client that hangs up calls none off.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::fetch::{DEADLINE, FetchError};
use super::keys::Keys;
use crate::config::SUPABASE_JWT_SECRET;
use crate::retry::{Backoff, jittered};

/// A key that is revoked counts for ten minutes at most: this, and a fifth of it, and the fetch itself are less.
const REFRESH: Duration = Duration::from_secs(8 * 60);

/// While fetching fails, how soon it is tried again: at first, and in the end.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_CAP: Duration = Duration::from_secs(10);

/// How long keys count that cannot be fetched anew.
const KEPT: Duration = Duration::from_secs(60 * 60);

/// How soon another request for an unknown key makes us fetch again.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// How long a request waits for a fetch: as long as one may take, and a little for the tasks to take turns.
const PATIENCE: Duration = DEADLINE.saturating_add(Duration::from_secs(1));

/// Where keys come from.
pub trait Source: Send + Sync + 'static {
    fn fetch(&self) -> impl Future<Output = Result<Keys, FetchError>> + Send;
}

/// The keys cannot be had, so nobody can say whether a token is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unavailable;

#[derive(Debug)]
pub struct Jwks<S> {
    source: S,
    state: watch::Sender<State>,
}

#[derive(Debug)]
struct State {
    /// The last keys that could be fetched, and when.
    known: Option<(Arc<Keys>, Instant)>,
    /// Why the last fetch brought none.
    failure: Option<String>,
    /// How many fetches have ended.
    fetches: u64,
    /// A fetch has begun, or is about to.
    on_its_way: bool,
    /// When a request last made us fetch.
    asked: Option<Instant>,
}

impl State {
    fn usable(&self, now: Instant) -> Option<&Arc<Keys>> {
        let (keys, fetched) = self.known.as_ref()?;
        (now.duration_since(*fetched) < KEPT).then_some(keys)
    }

    fn know(&self, kid: Option<&str>, now: Instant) -> bool {
        self.usable(now).is_some_and(|keys| keys.know(kid))
    }

    /// The fetches after which a request for an unknown key has its answer; `None` when it is not to wait.
    fn ask(&mut self, now: Instant) -> Option<u64> {
        let is_early = self
            .asked
            .is_some_and(|asked| now.duration_since(asked) < ASK_AGAIN);
        if !self.on_its_way {
            if is_early {
                return None;
            }
            self.on_its_way = true;
            self.asked = Some(now);
        }
        Some(self.fetches + 1)
    }
}

impl<S: Source> Jwks<S> {
    pub fn new(source: S) -> Self {
        let state = State {
            known: None,
            failure: None,
            fetches: 0,
            // The first one is the start's.
            on_its_way: true,
            asked: None,
        };
        Self {
            source,
            state: watch::Sender::new(state),
        }
    }

    /// Keys among which the one of this name is, if the project has it.
    pub async fn keys_for(&self, kid: Option<&str>) -> Result<Arc<Keys>, Unavailable> {
        let mut enough = None;
        self.state.send_if_modified(|state| {
            let now = Instant::now();
            if !state.know(kid, now) {
                enough = state.ask(now);
            }
            enough.is_some()
        });
        if let Some(enough) = enough {
            let mut state = self.state.subscribe();
            let fetched = state.wait_for(|state| state.fetches >= enough);
            // Whatever came of it, what there is now decides.
            let _ = timeout(PATIENCE, fetched).await;
        }
        let (state, now) = (self.state.borrow(), Instant::now());
        match state.usable(now) {
            // Not knowing a key is no verdict while nobody answers for it: it may be new.
            Some(keys) if keys.know(kid) || state.failure.is_none() => Ok(keys.clone()),
            _ => Err(Unavailable),
        }
    }

    /// How long ago the last keys were fetched that could be.
    pub fn age(&self) -> Option<Duration> {
        let state = self.state.borrow();
        state.known.as_ref().map(|(_, fetched)| fetched.elapsed())
    }

    /// Why no token can be verified now.
    pub fn unusable(&self) -> Option<String> {
        let state = self.state.borrow();
        if state.usable(Instant::now()).is_some() {
            return None;
        }
        let failure = state.failure.as_deref().unwrap_or("not tried yet");
        Some(format!("the keys of callers cannot be fetched: {failure}"))
    }

    /// Fetches until `shutdown` is called. `told` hears after each fetch why no token can be verified, if so.
    pub async fn keep(&self, told: impl Fn(Option<String>), shutdown: &CancellationToken) {
        let mut wanted = self.state.subscribe();
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_CAP);
        loop {
            let fetched = tokio::select! {
                fetched = self.source.fetch() => fetched,
                () = shutdown.cancelled() => return,
            };
            let pause = match &fetched {
                Ok(_) => {
                    backoff.reset();
                    jittered(REFRESH)
                }
                Err(_) => backoff.pause(),
            };
            self.state.send_modify(|state| state.take(fetched));
            told(self.unusable());
            tokio::select! {
                () = sleep(pause) => self.state.send_modify(|state| state.on_its_way = true),
                _ = wanted.wait_for(|state| state.on_its_way) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }
}

impl State {
    fn take(&mut self, fetched: Result<Keys, FetchError>) {
        self.fetches += 1;
        self.on_its_way = false;
        match fetched {
            Ok(keys) => {
                let (before, count) = (self.known.as_ref(), keys.count());
                let is_news = before.is_none_or(|(before, _)| before.count() != count);
                match is_news || self.failure.is_some() {
                    true if count == 0 => warn!(
                        "the project publishes no key that is of use: only its JWT secret ({}) verifies tokens",
                        SUPABASE_JWT_SECRET,
                    ),
                    true => info!(keys = count, "fetched the keys of callers"),
                    false => debug!(keys = count, "fetched the keys of callers"),
                }
                self.known = Some((Arc::new(keys), Instant::now()));
                self.failure = None;
            }
            Err(error) => {
                let error = error.to_string();
                // Said once, not at every attempt.
                if self.failure.as_ref() != Some(&error) {
                    warn!(error, "cannot fetch the keys of callers; it is tried again");
                }
                self.failure = Some(error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::join_all;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// Answers with one key of this name, or not at all, and takes a second for it.
    #[derive(Default)]
    struct Published {
        kid: Mutex<Option<&'static str>>,
        fetches: AtomicUsize,
    }

    impl Source for Arc<Published> {
        async fn fetch(&self) -> Result<Keys, FetchError> {
            self.fetches.fetch_add(1, Ordering::Relaxed);
            let kid = *self.kid.lock().unwrap();
            sleep(Duration::from_secs(1)).await;
            let coordinate = "A".repeat(43);
            let jwk = |kid| {
                format!(
                    r#"{{"keys":[{{"kty":"EC","crv":"P-256","kid":"{kid}","x":"{coordinate}","y":"{coordinate}"}}]}}"#
                )
            };
            let failed = || FetchError::new("https://host/keys", "down");
            kid.map(|kid| Keys::parse(jwk(kid).as_bytes()).unwrap())
                .ok_or_else(failed)
        }
    }

    /// Keys that are kept, and what a test may do to them.
    struct Kept {
        published: Arc<Published>,
        jwks: Arc<Jwks<Arc<Published>>>,
        told: Arc<Mutex<Option<String>>>,
        shutdown: CancellationToken,
    }

    impl Kept {
        fn new(kid: Option<&'static str>) -> Self {
            let published = Arc::new(Published::default());
            let kept = Self {
                jwks: Arc::new(Jwks::new(published.clone())),
                published,
                told: Arc::default(),
                shutdown: CancellationToken::new(),
            };
            kept.publish(kid);
            let (jwks, told, shutdown) =
                (kept.jwks.clone(), kept.told.clone(), kept.shutdown.clone());
            tokio::spawn(async move {
                jwks.keep(|unusable| *told.lock().unwrap() = unusable, &shutdown)
                    .await;
            });
            kept
        }

        fn publish(&self, kid: Option<&'static str>) {
            *self.published.kid.lock().unwrap() = kid;
        }

        fn fetches(&self) -> usize {
            self.published.fetches.load(Ordering::Relaxed)
        }

        /// Whether the keys include this one; `None`: they cannot be had.
        async fn know(&self, kid: &str) -> Option<bool> {
            let keys = self.jwks.keys_for(Some(kid)).await.ok()?;
            Some(keys.know(Some(kid)))
        }
    }

    impl Drop for Kept {
        fn drop(&mut self) {
            self.shutdown.cancel();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_request_has_the_keys_of_the_fetch_at_start() {
        let kept = Kept::new(Some("a"));
        assert_eq!((kept.know("a").await, kept.fetches()), (Some(true), 1));
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_never_older_than_ten_minutes() {
        let kept = Kept::new(Some("a"));
        assert_eq!(kept.know("a").await, Some(true));
        for round in 0..20 {
            let (new, old) = [("a", "b"), ("b", "a")][round % 2];
            kept.publish(Some(new));
            sleep(10 * MINUTE).await;
            let keys = kept.jwks.keys_for(None).await.unwrap();
            assert!(keys.know(Some(new)) && !keys.know(Some(old)), "{round}");
        }
        assert!((21..=40).contains(&kept.fetches()), "{}", kept.fetches());
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_key_is_asked_for_once_in_ten_seconds_however_many_want_it() {
        let kept = Kept::new(Some("a"));
        kept.know("a").await;
        kept.publish(Some("b"));
        let wanted = (0..100).map(|n| kept.jwks.keys_for(Some(if n % 2 == 0 { "b" } else { "x" })));
        assert!(
            join_all(wanted)
                .await
                .iter()
                .all(|keys| keys.as_ref().unwrap().know(Some("b")))
        );
        assert_eq!(kept.fetches(), 2);
        kept.publish(Some("c"));
        sleep(Duration::from_millis(8_900)).await;
        assert_eq!((kept.know("c").await, kept.fetches()), (Some(false), 2));
        sleep(Duration::from_millis(200)).await;
        assert_eq!((kept.know("c").await, kept.fetches()), (Some(true), 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_hangs_up_calls_no_fetch_off() {
        let kept = Kept::new(Some("a"));
        kept.know("a").await;
        kept.publish(Some("b"));
        let hangs_up = timeout(Duration::from_millis(100), kept.jwks.keys_for(Some("b")));
        assert!(hangs_up.await.is_err());
        assert_eq!((kept.know("b").await, kept.fetches()), (Some(true), 2));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_good_keys_count_for_an_hour_and_then_nobody_can_tell() {
        let kept = Kept::new(Some("a"));
        kept.know("a").await;
        kept.publish(None);
        sleep(59 * MINUTE).await;
        assert_eq!(kept.know("a").await, Some(true));
        assert_eq!(kept.know("new").await, None, "it may be new");
        assert_eq!(*kept.told.lock().unwrap(), None);
        sleep(2 * MINUTE).await;
        assert_eq!(kept.know("a").await, None);
        assert!(kept.jwks.keys_for(None).await.is_err());
        let told = kept.told.lock().unwrap().clone().expect("told");
        assert!(told.contains("https://host/keys: down"), "{told}");
        // And they come back without anybody asking.
        kept.publish(Some("a"));
        sleep(Duration::from_secs(14)).await;
        assert_eq!(*kept.told.lock().unwrap(), None);
        assert_eq!(kept.know("a").await, Some(true));
    }

    #[tokio::test(start_paused = true)]
    async fn while_it_is_down_a_flood_costs_little() {
        let kept = Kept::new(None);
        for _ in 0..600 {
            assert_eq!(kept.know("a").await, None);
            sleep(Duration::from_millis(100)).await;
        }
        assert!(
            kept.fetches() <= 20,
            "{} fetches in a minute",
            kept.fetches()
        );
    }
}
