//! agent-sync keeps LangGraph assistants equal to the agents in a Supabase database.
//!
//! ```text
//!  public.agents and the tables it          ┌──────────────── agent-sync ────────────────┐
//!  refers to                                │                                            │
//!        │ triggers (same transaction)      │  startup pass ─┐                           │
//!        ▼                                  │                ▼                           │
//!  agent_sync.outbox ─── NOTIFY (doorbell) ─▶  change loop ─▶ syncer ─▶ store ───────────┼─▶ assistants
//!        ▲                                  │                ▲   │                       │
//!        └─────── claimed, then deleted ────│  lazy sync ────┘   └─▶ ledger, write-back  │
//!                                           └────────────────────────────────────────────┘
//! ```
//!
//! Three entrances, one [`syncer`]. It takes agent ids, never contents: what a row says is read again under the
//! agent's lock, however the worker came to look at it. So a lost, doubled or forged notification costs latency at
//! most, and a sync may run at any time, any number of times, by any number of workers.
//!
//! In the order in which the data flows:
//!
//! | module | what it owns |
//! |---|---|
//! | [`cli`], [`config`], [`telemetry`] | commands and flags; environment → [`config::Config`]; logs |
//! | [`commands`] | what each command does, and its exit code |
//! | [`scope`] | which agents the startup pass takes |
//! | [`worker`] | what runs, and the order of starting and of shutting down |
//! | [`pass`] | looks at every agent of a scope: the startup pass, the resync, `agent-sync sync` and its dry run |
//! | [`changes`] | the change loop, the listening connection, who is had to ring, and bursts of edits |
//! | [`doorbell`] | what the change loop waits for, and how well the listening goes |
//! | [`outbox`] | what changed: claim, settle, spread, retry |
//! | [`http`] | the API (who is calling, `/assistants`, lazy sync; what is passed through) and the admin server |
//! | [`syncer`] | ids → read → map → plan → write → outcomes; or, of a dry run, → forecasts |
//! | [`source`], [`agent`] | reads agents; a row as the database has it |
//! | [`access`] | which agents a user may have: the database is asked in the user's name |
//! | [`assistant`] | what an agent must become, and its content hash (pure; the heart) |
//! | [`plan`] | what must happen to each assistant of an agent (pure) |
//! | [`diff`] | where two documents differ, for people, and without secrets: what `sync --dry-run` shows (pure) |
//! | [`removals`] | the guard that holds removals when they are suspiciously many |
//! | [`ledger`] | which assistants are ours |
//! | [`store`] | where assistants live: the runtime's Postgres table, a LangGraph server, or memory |
//! | [`status`] | how an installation is, in one word and why: `agent-sync status`, `/status` |
//! | [`doctor`] | what goes wrong in real installations, checked one by one |
//! | [`write_back`] | `public.agents.langgraph_assistant_id` |
//! | [`database`] | connecting, the pool, transactions, migrations |
//! | [`demo`] | a throw-away Postgres with a believable data set |
//! | `fuzzing` | what must hold whatever bytes come in; for tests and `make fuzz` only |
//! | [`activity`], [`metrics`] | what the worker is doing: the last syncs, the last hour; what is counted for Prometheus |
//! | [`ids`], [`retry`], [`readiness`] | what several of these share |

pub mod access;
pub mod activity;
pub mod agent;
pub mod assistant;
pub mod changes;
pub mod cli;
pub mod commands;
pub mod config;
pub mod database;
pub mod demo;
pub mod diff;
pub mod doctor;
pub mod doorbell;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod http;
pub mod ids;
pub mod ledger;
pub mod metrics;
pub mod outbox;
pub mod pass;
pub mod plan;
pub mod readiness;
pub mod removals;
pub mod retry;
pub mod scope;
pub mod source;
pub mod status;
pub mod store;
pub mod syncer;
pub mod telemetry;
pub mod worker;
pub mod write_back;
