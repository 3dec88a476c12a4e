//! What the benchmarks share.

// None needs all of it.
#![allow(dead_code)]

pub mod edits;
pub mod least;
pub mod passes;
pub mod report;
pub mod server;

use std::process::Child;
use std::time::Duration;

use tokio_postgres::{Client, NoTls};

/// What every assistant should be, by an independent mapping. $1: the default model.
pub const EXPECTED: &str = include_str!("../../tests/fixtures/expected.sql");

/// Of agents that name no model.
pub const DEFAULT_MODEL: &str = "openai:gpt-4o";

pub type AnyError = Box<dyn std::error::Error>;

pub async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Agents with prompts of 1.5 KB of words that do not compress to nothing, and 0 to 4 tools out of 200.
pub fn data(agents: u32) -> String {
    format!(
        "insert into public.organizations (name) select 'organization ' || n from generate_series(1, 50) n;
         insert into public.ai_models (runtime_model_name) select 'provider:model-' || n from generate_series(1, 10) n;
         insert into public.global_ai_engines (name, language_model_id)
           select 'engine ' || n, (select id from public.ai_models order by id offset n % 10 limit 1) from generate_series(1, 30) n;
         insert into public.mcp_tools (tool_name, endpoint_url, auth_required)
           select 'tool ' || n, 'https://mcp-' || n % 120 || '.example/path', n % 3 = 0 from generate_series(1, 200) n;
         create temporary table words as select string_agg(md5(n::text), ' ') as text from generate_series(1, 400) n;
         create temporary table o as select row_number() over () - 1 as n, id from public.organizations;
         create temporary table e as select row_number() over () - 1 as n, id from public.global_ai_engines;
         create temporary table t as select row_number() over () - 1 as n, id from public.mcp_tools;
         insert into public.agents (organization_id, name, description, status, engine_id, system_prompt, sampling_params)
           select o.id, 'agent ' || i, 'Agent number ' || i, 'active', e.id,
             substr(words.text, 1 + i % 11000, 1500), jsonb_build_object('temperature', i % 10 / 10.0, 'max_tokens', 100 + i)
           from generate_series(1, {agents}) i join o on o.n = i % 50 join e on e.n = i % 30, words;
         insert into public.agent_mcp_tools
           select a.id, t.id from (select id, row_number() over () as n from public.agents) a
           join generate_series(1, 4) k on k <= a.n % 5
           join t on t.n = (a.n * 7 + k * 31) % 200;
         truncate agent_sync.outbox;
         analyze"
    )
}

/// What a benchmark is called with, after `--`.
#[derive(Debug)]
pub struct Arguments {
    /// Numbers of agents.
    sizes: Vec<u32>,
    /// Less of everything: to see that it works, not to believe the figures.
    pub quick: bool,
    /// Tells more than the figures.
    pub verbose: bool,
}

impl Arguments {
    pub fn of_this_process() -> Self {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let is_given = |name: &str| arguments.iter().any(|argument| argument == name);
        Self {
            sizes: arguments
                .iter()
                .filter_map(|argument| argument.parse().ok())
                .collect(),
            quick: is_given("--quick"),
            verbose: is_given("--verbose"),
        }
    }

    /// As many as it was told, or else this many.
    pub fn agents(&self, quick: u32, otherwise: u32) -> u32 {
        let unless_told = if self.quick { quick } else { otherwise };
        self.sizes.first().copied().unwrap_or(unless_told)
    }

    /// The same, one after the other; when quick, those of up to 10,000.
    pub fn sizes(&self, unless_told: &[u32]) -> Vec<u32> {
        match self.sizes.is_empty() {
            true => unless_told
                .iter()
                .copied()
                .filter(|size| !self.quick || *size <= 10_000)
                .collect(),
            false => self.sizes.clone(),
        }
    }
}

/// The processor time that a process has taken so far, as Linux tells it.
pub fn cpu(process: u32) -> Result<Duration, AnyError> {
    // Of all its threads, those that have ended included: in ticks of 10 ms.
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, after_name) = stat.rsplit_once(") ").ok_or("no name")?;
    let ticks: u64 = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(str::parse::<u64>)
        .sum::<Result<_, _>>()?;
    Ok(Duration::from_millis(ticks * 10))
}

/// Its resident memory in MB, as Linux tells it.
pub fn resident_memory(worker: &Child) -> Result<f64, AnyError> {
    Ok(memory(worker, "VmRSS:")? as f64 / 1024.0)
}

/// The peak of its resident memory in MB, rounded up.
pub fn peak_memory(worker: &Child) -> Result<u64, AnyError> {
    Ok(memory(worker, "VmHWM:")?.div_ceil(1024))
}

/// In KB.
fn memory(worker: &Child, name: &str) -> Result<u64, AnyError> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.id()))?;
    let kb = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"))
        .ok_or("not in the status")?;
    Ok(kb.trim().parse()?)
}
