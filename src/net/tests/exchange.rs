use super::*;
use crate::net::mesh::{Mesh, exchange};
use crate::net::tls;

#[tokio::test]
async fn what_was_not_sent_of_a_question_that_was_given_up_is_not_sent() {
    let paper = Paper::new(41, 2);
    let (one, two) = (&paper.identities[&NodeId(1)], &paper.identities[&NodeId(2)]);
    // A callee that takes a little of a question and no more, as a line that is full.
    let mut narrow = tls::transport(&SLOW).unwrap();
    narrow.stream_receive_window(1024u32.into());
    let server = tls::server(one, &[tls::MEMBER], tls::Clients::Members, narrow).unwrap();
    let callee = quinn::Endpoint::server(server, "127.0.0.1:0".parse().unwrap()).unwrap();
    let transport = Arc::new(tls::transport(&SLOW).unwrap());
    let caller = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let name = crate::net::authority::node_name(NodeId(1), paper.cluster);
    let client = tls::client(two, tls::MEMBER, transport).unwrap();
    let dialed = caller.connect_with(client, callee.local_addr().unwrap(), &name).unwrap();
    let (to, from) = tokio::join!(dialed, async { callee.accept().await.unwrap().await });
    let (to, from) = (to.unwrap(), from.unwrap());

    let body = vec![7; 1 << 16];
    let asked = timeout(Duration::from_millis(200), exchange(&to, Kind::Raft, &body)).await;
    assert!(asked.is_err(), "nobody answers");
    let (_send, mut recv) = timeout(Duration::from_secs(5), from.accept_bi()).await.unwrap().unwrap();
    let reset = timeout(Duration::from_secs(5), recv.received_reset()).await.expect("it is still being sent");
    assert!(reset.unwrap().is_some(), "it was sent to its end");
}

/// Carries datagrams to `to` and back, each of them for so long. Returns where it takes them.
async fn far_line(to: SocketAddr, way: Duration) -> SocketAddr {
    let socket = || async { Arc::new(tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap()) };
    let (near, far) = (socket().await, socket().await);
    let address = near.local_addr().unwrap();
    let back_to = Arc::new(Mutex::new(None));
    let (learns, knows, ends) = (back_to.clone(), back_to, [(near.clone(), far.clone()), (far, near)]);
    let [there, back] = ends;
    let carry = |(from, into): (Arc<tokio::net::UdpSocket>, Arc<tokio::net::UdpSocket>), way, target: Target| async move {
        let mut bytes = [0; 2048];
        while let Ok((length, source)) = from.recv_from(&mut bytes).await {
            let Some(target) = target(source) else { continue };
            let (into, bytes) = (into.clone(), bytes[..length].to_vec());
            tokio::spawn(async move {
                tokio::time::sleep(way).await;
                into.send_to(&bytes, target).await.ok();
            });
        }
    };
    tokio::spawn(carry(
        there,
        way,
        Box::new(move |source| {
            *learns.lock().unwrap() = Some(source);
            Some(to)
        }),
    ));
    tokio::spawn(carry(back, way, Box::new(move |_| *knows.lock().unwrap())));
    address
}

/// Where a datagram of a sender goes.
type Target = Box<dyn Fn(SocketAddr) -> Option<SocketAddr> + Send>;

#[tokio::test]
async fn a_line_whose_answers_take_longer_than_the_first_try_is_connected_too() {
    let paper = Paper::new(42, 2);
    let start = |id: u64, members: BTreeMap<NodeId, Peer>| {
        let (identity, echo) = (paper.identities[&NodeId(id)].clone(), Arc::new(Echo::default()));
        let mesh = Mesh::bind(paper.address(id), identity, 1, Timing::MESH, echo).unwrap();
        mesh.set_members(members);
        mesh
    };
    // A handshake and a hello are two round trips, of 300 ms each.
    let mut members = paper.members.clone();
    members.get_mut(&NodeId(2)).unwrap().address = far_line(paper.address(2), Duration::from_millis(150)).await;
    let (one, two) = (start(1, members), start(2, paper.members.clone()));
    until(one.reachable(), "the far member is connected", |reach| reach[&NodeId(2)].outgoing.is_some()).await;
    one.close().await;
    two.close().await;
}
