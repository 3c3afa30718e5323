//! Metrics for Prometheus. Every name is in this file.

use crate::node::Core;
use anyhow::Context;
use axum::Router;
use axum::routing::get;
use metrics::{counter, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use metrics_util::MetricKindMask;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::interval;

/// How often the picture is turned into numbers.
const EVERY: Duration = Duration::from_secs(1);
/// What was not said for so long, a service or a node that is no more, is not shown any more.
const GONE: Duration = Duration::from_secs(10);

/// Serves `GET /metrics` on `address`.
///
/// # Errors
/// The address is not to be had.
pub(super) fn serve(core: Arc<Core>, address: SocketAddr) -> anyhow::Result<()> {
    let recorder = PrometheusBuilder::new().idle_timeout(MetricKindMask::ALL, Some(GONE)).build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|error| anyhow::anyhow!("metrics: {error}"))?;
    let listener = TcpListener::bind(address).with_context(|| format!("cannot serve metrics on {address}"))?;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let page = handle.clone();
    let router = Router::new().route("/metrics", get(move || std::future::ready(page.render())));
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the metrics page has ended");
        }
    });
    tokio::spawn(measure(core, handle));
    Ok(())
}

async fn measure(core: Arc<Core>, handle: PrometheusHandle) {
    let mut ticks = interval(EVERY);
    loop {
        ticks.tick().await;
        let picture = core.picture();
        gauge!("hamesh_quorum").set(flag(picture.cluster.quorum));
        gauge!("hamesh_leader").set(flag(picture.cluster.leader.as_ref() == Some(&picture.node)));
        counter!("hamesh_raft_applied_index").absolute(picture.cluster.applied);
        for node in &picture.nodes {
            gauge!("hamesh_node_reachable", "node" => node.name.clone()).set(flag(node.reachable));
        }
        for vip in &picture.vips {
            let labels = [("vip", vip.name.clone())];
            gauge!("hamesh_vip_master", &labels).set(flag(vip.state == "MASTER"));
            gauge!("hamesh_vip_gate_open", &labels).set(flag(vip.gate == "open"));
            gauge!("hamesh_vip_unfenced", &labels).set(flag(vip.unfenced));
            gauge!("hamesh_vip_held", &labels).set(flag(vip.holder.is_some()));
            counter!("hamesh_vip_token", &labels).absolute(vip.token.unwrap_or(0));
            let remaining = Duration::from_millis(vip.lease_remaining_ms.unwrap_or(0));
            gauge!("hamesh_lease_remaining_seconds", &labels).set(remaining.as_secs_f64());
            for candidate in &vip.candidates {
                let labels = [("vip", vip.name.clone()), ("node", candidate.node.clone())];
                gauge!("hamesh_vip_recent_losses", &labels).set(candidate.losses);
                gauge!("hamesh_vip_held_back_seconds", &labels)
                    .set(Duration::from_millis(candidate.held_back_ms).as_secs_f64());
            }
        }
        for service in &picture.services {
            gauge!("hamesh_service_quorum", "service" => service.name.clone()).set(flag(service.quorum));
            // The kernel counts from when the service was put in: these begin anew, with 0, where it is served again.
            let traffic = service.traffic.unwrap_or_default();
            for (name, count) in [
                ("hamesh_service_connections", traffic.connections),
                ("hamesh_service_packets_in", traffic.packets_in),
                ("hamesh_service_packets_out", traffic.packets_out),
                ("hamesh_service_bytes_in", traffic.bytes_in),
                ("hamesh_service_bytes_out", traffic.bytes_out),
            ] {
                gauge!(name, "service" => service.name.clone()).set(count as f64);
            }
            for server in &service.servers {
                let labels = [("service", service.name.clone()), ("server", server.address.to_string())];
                gauge!("hamesh_server_up", &labels).set(flag(server.state != "down"));
                let connections = server.connections.unwrap_or_default();
                gauge!("hamesh_server_active_connections", &labels).set(connections.active);
                gauge!("hamesh_server_inactive_connections", &labels).set(connections.inactive);
            }
        }
        for session in &picture.bfd {
            let labels = [("session", session.name.clone()), ("neighbour", session.neighbour.to_string())];
            gauge!("hamesh_bfd_up", &labels).set(flag(session.up == Some(true)));
        }
        for (of, ends) in core.certificates() {
            gauge!("hamesh_certificate_ends_timestamp_seconds", "of" => of).set(ends.as_secs_f64());
        }
        counter!("hamesh_ipvs_repaired_total").absolute(core.balance.status().repaired);
        for (group, local) in core.vrrp() {
            counter!("hamesh_vrrp_adverts_sent_total", "vip" => group.clone()).absolute(local.vrrp.sent);
            counter!("hamesh_vrrp_adverts_heard_total", "vip" => group.clone()).absolute(local.vrrp.heard);
            let conflicts = local.conflict.map_or(0, |conflict| conflict.times);
            counter!("hamesh_vip_conflicts_total", "vip" => group.clone()).absolute(conflicts);
            for (reason, count) in local.discarded {
                let labels = [("vip", group.clone()), ("reason", reason.to_owned())];
                counter!("hamesh_vrrp_discarded_total", &labels).absolute(count);
            }
        }
        handle.run_upkeep();
    }
}

fn flag(value: bool) -> f64 {
    if value { 1.0 } else { 0.0 }
}
