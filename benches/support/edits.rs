//! Edits, and when their assistants are there.

use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_postgres::{AsyncMessage, Client, NoTls};
use uuid::Uuid;

use super::AnyError;

/// Says which assistants are there, once they are.
pub const TELL: &str = "
create function public.tell() returns trigger language plpgsql as $$
begin
  perform pg_notify('written', new.id || ' ' || new.version);
  return null;
end $$;
create trigger tell after insert or update on langgraph_server.assistants for each row execute function public.tell();
alter table langgraph_server.assistants disable trigger tell;";

/// Between two edits in the quiet: rings that come thicker keep the worker awake.
pub const QUIET: Duration = Duration::from_millis(40);

pub async fn agents(client: &Client) -> Result<Vec<Uuid>, AnyError> {
    let rows = client.query("select id from public.agents", &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// What is told on a channel, and when that was heard.
pub async fn listen(
    url: &str,
    channel: &str,
) -> Result<(Client, mpsc::UnboundedReceiver<(String, Instant)>), AnyError> {
    let (client, mut connection) = tokio_postgres::connect(url, NoTls).await?;
    let (tell, heard) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut messages = stream::poll_fn(move |cx| connection.poll_message(cx));
        while let Some(Ok(message)) = messages.next().await {
            if let AsyncMessage::Notification(note) = message {
                let _ = tell.send((note.payload().to_owned(), Instant::now()));
            }
        }
    });
    client.batch_execute(&format!("listen {channel}")).await?;
    Ok((client, heard))
}

pub fn edit(agent: Uuid, n: u64) -> String {
    format!(
        "update public.agents set system_prompt = {} || substr(system_prompt, 10) where id = '{agent}'",
        100_000_000 + n
    )
}

/// Edits an agent when it has been quiet for a while. Returns how long after the commit its assistant was there.
pub async fn one(
    editor: &Client,
    agent: Uuid,
    n: u64,
    written: &mut mpsc::UnboundedReceiver<(String, Instant)>,
) -> Result<Duration, AnyError> {
    tokio::time::sleep(QUIET).await;
    editor.simple_query(&edit(agent, n)).await?;
    let committed = Instant::now();
    let told = agent.to_string();
    loop {
        match timeout(Duration::from_secs(10), written.recv()).await? {
            Some((id, at)) if id.starts_with(&told) => {
                return Ok(at.saturating_duration_since(committed));
            }
            Some(_) => {}
            None => return Err("the listening connection has ended".into()),
        }
    }
}

pub fn percentile(times: &mut [Duration], share: usize) -> Duration {
    times.sort();
    let place = (times.len() * share / 100).min(times.len().saturating_sub(1));
    times.get(place).copied().unwrap_or_default()
}

pub fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}
