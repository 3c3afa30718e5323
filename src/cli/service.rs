//! `hamesh service`.

use super::client::Client;
use super::status::{table, yes};
use super::{Exit, Failure};
use crate::health::{Observed, ServerStatus, ServiceStatus};
use crate::ipvs::{Connections, Traffic};

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
    let ServiceStatus { name, vip, listen, protocol, scheduler, quorum, traffic, sorry, servers } = service;
    let serves = if *quorum { "has its quorum" } else { "HAS LOST ITS QUORUM" };
    println!("service {name}   {protocol} {listen}   vip {vip}   {scheduler}   {serves}");
    match traffic {
        Some(traffic) => println!("served here, so far {}\n", counted(traffic)),
        None => println!("not served here\n"),
    }
    if let Some(weight) = sorry {
        println!("its sorry server is balanced to, with weight {weight}\n");
    }
    let mut lines = table(&["SERVER", "WEIGHT", "STATE", "ACTIVE", "INACTIVE", "ANSWERS IN", "SEEN", "WHY"]);
    for server in servers {
        let ServerStatus { address, weight, order, connections, response_ms, observations, .. } = server;
        let now = |count: fn(&Connections) -> u32| connections.as_ref().map(|all| count(all).to_string());
        lines.add_row([
            address.to_string(),
            weight.to_string(),
            order.as_ref().map_or_else(|| server.state.clone(), |order| format!("{}, {order}", server.state)),
            now(|connections| connections.active).unwrap_or_default(),
            now(|connections| connections.inactive).unwrap_or_default(),
            response_ms.map(|ms| format!("{ms:.1} ms")).unwrap_or_default(),
            observations.iter().map(|one| seen(one, *weight)).collect::<Vec<_>>().join(", "),
            why(server),
        ]);
    }
    println!("{lines}");
}

/// What one director sees, with its reason, or with the weight that it finds where that is another one.
fn seen(Observed { director, seen, weight, why }: &Observed, agreed: u32) -> String {
    let detail = match (why, weight) {
        (Some(why), _) => format!(" ({why})"),
        (None, Some(weight)) if *weight != agreed => format!(" (weight {weight})"),
        (None, _) => String::new(),
    };
    format!("{director} {seen}{detail}")
}

/// By whose word a server is what it is, and what this director finds wrong; nothing where all see it up.
fn why(server: &ServerStatus) -> String {
    let well = server.state == "up" && server.observations.iter().all(|one| one.seen == "up");
    match &server.why {
        why if well => why.clone().unwrap_or_default(),
        Some(why) => format!("{}: {why}", server.verdict),
        None => server.verdict.clone(),
    }
}

/// In words: with direct and tunnel the answers do not come by, and there is nothing to say of them.
fn counted(traffic: &Traffic) -> String {
    let Traffic { connections, packets_in, packets_out, bytes_in, bytes_out } = traffic;
    let mut text = format!("{connections} connections, {packets_in} packets with {bytes_in} bytes from clients");
    if *packets_out > 0 {
        text += &format!(", {packets_out} with {bytes_out} to them");
    }
    text
}
