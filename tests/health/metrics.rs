//! The metrics page against the status: the same services and servers, with the same numbers, and no others.

use crate::PATIENCE;
use anyhow::{Context, Result, ensure};
use hamesh::health::ServiceStatus;
use hamesh::lab::cluster::Cluster;
use hamesh::lab::host::Host;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

const PAGE: &str = "127.0.0.1:9746";

/// Waits until the first director's page says of services what its status says. A page is up to a second old, and what is
/// configured no more leaves it after some seconds.
pub fn agree(cluster: &Cluster, first: &Host) -> Result<()> {
    let began = Instant::now();
    loop {
        let (before, said, after) = (expected(cluster)?, page(first)?, expected(cluster)?);
        if before == after && said == before {
            return Ok(());
        }
        let missing: Vec<_> = before.iter().filter(|(name, value)| said.get(*name) != Some(value)).collect();
        let besides: Vec<_> = said.iter().filter(|(name, _)| !before.contains_key(*name)).collect();
        ensure!(
            began.elapsed() < PATIENCE,
            "the metrics do not agree with the status: they do not say {missing:?}, and besides {besides:?}"
        );
        sleep(Duration::from_millis(100));
    }
}

/// What the page is to say, name and labels first.
fn expected(cluster: &Cluster) -> Result<BTreeMap<String, f64>> {
    let status: Value = serde_json::from_str(&cluster.command(0, &["status", "--json"])?)?;
    let services: Vec<ServiceStatus> = serde_json::from_value(status["services"].clone())?;
    ensure!(!services.is_empty(), "there are no services");
    let mut lines = BTreeMap::new();
    for service in services {
        let of_service = format!("service=\"{}\"", service.name);
        let quorum = if service.quorum { 1.0 } else { 0.0 };
        lines.insert(format!("hamesh_service_quorum{{{of_service}}}"), quorum);
        // No kernel has counted anything here.
        for counted in ["connections", "packets_in", "packets_out", "bytes_in", "bytes_out"] {
            lines.insert(format!("hamesh_service_{counted}{{{of_service}}}"), 0.0);
        }
        for server in service.servers {
            let labels = format!("{of_service},server=\"{}\"", server.address);
            lines.insert(format!("hamesh_server_up{{{labels}}}"), if server.state == "down" { 0.0 } else { 1.0 });
            for counted in ["active_connections", "inactive_connections"] {
                lines.insert(format!("hamesh_server_{counted}{{{labels}}}"), 0.0);
            }
        }
    }
    Ok(lines)
}

/// What it says of services and servers.
fn page(first: &Host) -> Result<BTreeMap<String, f64>> {
    let page = first.netns().run(|| {
        let address: SocketAddr = PAGE.parse()?;
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: lab\r\nConnection: close\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        Ok(page)
    })?;
    let (head, body) = page.split_once("\r\n\r\n").context("no page")?;
    ensure!(head.lines().next().is_some_and(|line| line.ends_with(" 200 OK")), "{head}");
    let lines = body.lines().filter(|line| line.starts_with("hamesh_service_") || line.starts_with("hamesh_server_"));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').with_context(|| format!("`{line}`"))?;
            Ok((name.to_owned(), value.parse().with_context(|| format!("`{line}`"))?))
        })
        .collect()
}
