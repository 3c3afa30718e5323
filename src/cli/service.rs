//! `hamesh service`.

use super::client::Client;
use super::status::{table, yes};
use super::{Exit, Failure};
use crate::health::{ServerStatus, ServiceStatus};

/// Prints every service in a line.
pub(super) fn list(client: &Client, json: bool) -> Result<Exit, Failure> {
    let services = client.status()?.services;
    if json {
        println!("{}", serde_json::to_string_pretty(&services)?);
        return Ok(Exit::Ok);
    }
    let mut lines = table(&["SERVICE", "VIP", "LISTEN", "PROTOCOL", "SCHEDULER", "UP", "SERVES"]);
    for service in &services {
        let up = service.servers.iter().filter(|server| server.state != "down").count();
        lines.add_row([
            service.name.clone(),
            service.vip.clone(),
            service.listen.clone(),
            service.protocol.clone(),
            service.scheduler.clone(),
            format!("{up} of {}", service.servers.len()),
            yes(service.quorum),
        ]);
    }
    println!("{lines}");
    Ok(Exit::Ok)
}

/// Prints the servers of one.
pub(super) fn show(client: &Client, name: &str, json: bool) -> Result<Exit, Failure> {
    let services = client.status()?.services;
    let Some(service) = services.iter().find(|service| service.name == name) else {
        let names: Vec<&str> = services.iter().map(|service| service.name.as_str()).collect();
        let message = format!("there is no service `{name}`; there are: {}", names.join(", "));
        return Err(Failure { message, exit: Exit::NotFound });
    };
    if json {
        println!("{}", serde_json::to_string_pretty(service)?);
    } else {
        print(service);
    }
    Ok(Exit::Ok)
}

fn print(service: &ServiceStatus) {
    let ServiceStatus { name, vip, listen, protocol, scheduler, quorum, servers } = service;
    let serves = if *quorum { "has its quorum" } else { "HAS LOST ITS QUORUM" };
    println!("service {name}   {protocol} {listen}   vip {vip}   {scheduler}   {serves}\n");
    let mut lines = table(&["SERVER", "WEIGHT", "STATE", "ANSWERS IN", "SEEN", "WHY"]);
    for ServerStatus { address, weight, state, why, order, response_ms, observers } in servers {
        let seen: Vec<String> = observers.iter().map(|(node, seen)| format!("{node} {seen}")).collect();
        lines.add_row([
            address.to_string(),
            weight.to_string(),
            order.as_ref().map_or_else(|| state.clone(), |order| format!("{state}, {order}")),
            response_ms.map(|ms| format!("{ms:.1} ms")).unwrap_or_default(),
            seen.join(", "),
            why.clone().unwrap_or_default(),
        ]);
    }
    println!("{lines}");
}
