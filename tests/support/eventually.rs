//! Waiting for a condition, with a deadline that is generous: it is only reached when the code is wrong.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

const DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

/// Waits until `condition` holds, and fails with its last word when it never does.
pub async fn eventually<F, Fut>(what: &str, mut condition: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<(), String>>,
{
    let deadline = Instant::now() + DEADLINE;
    loop {
        match condition().await {
            Ok(()) => return,
            Err(last) if Instant::now() > deadline => {
                panic!("never came true: {what}; at last: {last}")
            }
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}
