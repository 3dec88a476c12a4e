//! How we connect to other HTTP servers: with TLS as a browser has it, or without, as their URL says.

use std::time::Duration;

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;

use crate::database::tls;

pub type Connector = HttpsConnector<HttpConnector>;

/// A server whose machine is gone says nothing, like one that is thinking: after this much silence the kernels find out.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;

/// `timeout` is for the TCP connection. The error says why there is no TLS.
pub fn connector(timeout: Duration) -> Result<Connector, String> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(timeout));
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    tcp.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    Ok(HttpsConnectorBuilder::new()
        .with_tls_config(tls::public()?)
        .https_or_http()
        .enable_http1()
        .wrap_connector(tcp))
}
