//! What the benchmarks share.

// None needs all of it.
#![allow(dead_code)]

pub mod report;

use std::process::Child;

use tokio_postgres::{Client, NoTls};

/// What every assistant should be, by an independent mapping. $1: the default model.
pub const EXPECTED: &str = include_str!("../../tests/fixtures/expected.sql");

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

/// The peak of its resident memory. In MB, rounded up; as Linux tells it.
pub fn peak_memory(worker: &Child) -> Result<u64, AnyError> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.id()))?;
    let kb = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"))
        .ok_or("no VmHWM")?;
    Ok(kb.trim().parse::<u64>()?.div_ceil(1024))
}
