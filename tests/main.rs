//! The integration tests: one binary, one PostgreSQL cluster, a database a test.

// A test that panics has failed, which is what it is for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

mod access;
mod admin;
mod advisors;
mod agents;
mod api;
mod auth;
mod backlog;
mod bell;
mod burst;
mod callers;
mod changes;
mod commands;
mod concurrency;
mod convergence;
mod cors;
mod customers;
mod denied;
mod deploy;
mod doctor;
mod failures;
mod faults;
mod glance;
mod http;
mod image;
mod in_memory;
mod installations;
mod kept;
mod langgraph;
mod lazy_sync;
mod limits;
mod listener;
mod mapping;
mod marks;
mod metrics;
mod migrations;
mod ownership;
mod page;
mod places;
mod plan;
mod properties;
mod push;
mod relay;
mod removals;
mod requests;
mod resync;
mod roles;
mod runtime;
mod sdk;
mod secrets;
mod server;
mod source;
mod startup_pass;
mod status;
mod store;
mod streams;
mod tenants;
mod tls;
mod triggers;
mod upstream;
mod versions;
mod write_back;
