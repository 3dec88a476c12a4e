//! Waiting for a condition, with a deadline that is generous: it is only reached when the code is wrong.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

const DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

/// Waits until `condition` holds, and fails with its last word when it never does.
pub async fn eventually<F, Fut>(what: &str, condition: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<(), String>>,
{
    if let Err(last) = becomes(condition).await {
        panic!("never came true: {what}; at last: {last}");
    }
}

/// Waits until `condition` holds. The error is its last word when it never does.
pub async fn becomes<F, Fut>(mut condition: F) -> Result<(), String>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<(), String>>,
{
    let deadline = Instant::now() + DEADLINE;
    loop {
        match condition().await {
            Ok(()) => return Ok(()),
            Err(last) if Instant::now() > deadline => return Err(last),
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}
