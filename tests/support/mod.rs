//! What the tests share: a cluster, a database a test, a worker on it, and waiting for a condition.

pub mod binary;
pub mod browser;
pub mod cluster;
pub mod container;
pub mod database;
pub mod dice;
pub mod double;
pub mod edits;
pub mod eventually;
pub mod expected;
pub mod exposition;
pub mod faults;
pub mod front;
pub mod interceptor;
pub mod jwks;
pub mod langgraph;
pub mod pgbouncer;
pub mod proxy;
pub mod sdk;
pub mod server;
pub mod snapshot;
pub mod sse;
pub mod stream;
pub mod tls;
pub mod tokens;
pub mod transcript;
pub mod worker;

pub use database::{TestDatabase, uuid};
pub use eventually::{becomes, eventually};
pub use front::Front;
pub use tokens::Project;
pub use worker::TestWorker;
