use super::*;
use crate::net::admit::{self, ClusterFacts, Invitation, Leader, Registrar, Use};
use crate::net::authority::{KeyHash, key_hash};
use crate::net::identity::{IdentityError, first_members};
use crate::net::invitation::JoinString;
use crate::net::join::{JoinError, Joiner, Refusal, join};
use crate::net::mesh::Mesh;
use hamesh_raft::command::{Applicant, InvitationId, WallTime};
use std::path::Path;
use std::sync::OnceLock;

/// A one-node cluster whose "replicated state" is a table.
struct Office {
    authority: Arc<Authority>,
    facts: ClusterFacts,
    mesh: OnceLock<Mesh>,
    table: Mutex<Table>,
}

struct Table {
    leader: Leader,
    invitations: BTreeMap<InvitationId, Invitation>,
    joined: BTreeMap<NodeId, (InvitationId, Applicant)>,
    clock_ahead: Duration,
    /// Forgets to answer: the join is applied and the connection is cut.
    lose_answers: bool,
}

impl Registrar for Office {
    fn leader(&self) -> Leader {
        self.table.lock().unwrap().leader
    }

    fn invitation(&self, id: InvitationId) -> Option<Invitation> {
        self.table.lock().unwrap().invitations.get(&id).cloned()
    }

    fn node_named(&self, name: &str) -> Option<NodeId> {
        let table = self.table.lock().unwrap();
        let of =
            |(node, (_, applicant)): (&NodeId, &(InvitationId, Applicant))| (applicant.name == name).then_some(*node);
        if name == "lb1" { Some(NodeId(1)) } else { table.joined.iter().find_map(of) }
    }

    fn name_at(&self, address: SocketAddr) -> Option<String> {
        (self.facts.members[&NodeId(1)].address == address).then(|| "lb1".into())
    }

    fn now(&self) -> WallTime {
        wall_now() + self.table.lock().unwrap().clock_ahead
    }

    fn reach_back(&self, address: SocketAddr, key: KeyHash) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move { self.mesh.get().unwrap().reach_back(address, key).await })
    }

    fn propose(&self, id: InvitationId, applicant: Applicant, _: WallTime) -> BoxFuture<'_, Result<NodeId, String>> {
        let mut table = self.table.lock().unwrap();
        let again = table.joined.iter().find(|(_, (used, _))| *used == id).map(|(node, _)| *node);
        let node = again.unwrap_or(NodeId(u64::try_from(table.joined.len()).unwrap() + 2));
        let used = Use { name: applicant.name.clone(), key: applicant.key };
        table.invitations.get_mut(&id).unwrap().used = Some(used);
        table.joined.insert(node, (id, applicant));
        Box::pin(std::future::ready(Ok(node)))
    }

    fn authority(&self) -> Option<Arc<Authority>> {
        Some(self.authority.clone())
    }

    fn cluster(&self) -> ClusterFacts {
        let mut facts = self.facts.clone();
        for (node, (_, applicant)) in &self.table.lock().unwrap().joined {
            facts.members.insert(*node, Peer { address: applicant.address, key: applicant.key, incarnation: 0 });
        }
        facts
    }
}

struct Desk(Arc<Office>);

impl Service for Desk {
    fn serve(&self, _: NodeId, _: Kind, body: Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, String>> {
        Box::pin(std::future::ready(Ok(body)))
    }

    fn told(&self, _: NodeId, _: Kind, _: Vec<u8>) {}

    fn join(&self, _: SocketAddr, body: Vec<u8>) -> BoxFuture<'static, Vec<u8>> {
        let office = self.0.clone();
        Box::pin(async move {
            let answer = admit::answer(&body, &*office).await;
            if office.table.lock().unwrap().lose_answers { b"?".to_vec() } else { answer }
        })
    }
}

/// One member, and a place for a joiner.
struct Scene {
    office: Arc<Office>,
    mesh: Mesh,
    listen: SocketAddr,
    pin: KeyHash,
    dir: tempfile::TempDir,
}

impl Scene {
    fn new(cluster: u128) -> Self {
        Self::answering_for(cluster, None)
    }

    /// A member that says in its answers that it is of another cluster than it is.
    fn answering_for(cluster: u128, other: Option<ClusterId>) -> Self {
        let paper = Paper::new(cluster, 1);
        let pin = key_hash(paper.authority.certificate()).unwrap();
        let facts = ClusterFacts {
            id: other.unwrap_or(paper.cluster),
            name: "edge".into(),
            lineage: paper.lineage,
            members: paper.members.clone(),
            cluster_toml: "[lease]\nprofile = \"default\"\n".into(),
        };
        let table = Table {
            leader: Leader::Here,
            invitations: BTreeMap::new(),
            joined: BTreeMap::new(),
            clock_ahead: Duration::ZERO,
            lose_answers: false,
        };
        let identity = paper.identities[&NodeId(1)].clone();
        let listen = paper.address(1);
        let office = Arc::new(Office {
            authority: Arc::new(paper.authority),
            facts,
            mesh: OnceLock::new(),
            table: Mutex::new(table),
        });
        let mesh = Mesh::bind(listen, identity, 1, SLOW, Arc::new(Desk(office.clone()))).unwrap();
        mesh.set_members(paper.members);
        assert!(office.mesh.set(mesh.clone()).is_ok());
        Self { office, mesh, listen, pin, dir: tempfile::tempdir().unwrap() }
    }

    fn invite(&self, role: Role) -> JoinString {
        let invited = JoinString::invite(role, vec![self.listen], self.pin).unwrap();
        let expires_at = wall_now() + Duration::from_secs(3600);
        let entry = Invitation { secret_hash: invited.secret_hash(), role, expires_at, used: None };
        self.office.table.lock().unwrap().invitations.insert(invited.invitation, entry);
        invited
    }

    fn joiner(&self, name: &str) -> Joiner {
        Joiner {
            data_dir: self.dir.path().join(name),
            cluster_file: Some(self.dir.path().join(format!("{name}.cluster.toml"))),
            name: name.into(),
            role: Role::Director,
            rack: "r1".into(),
            listen: address(),
        }
    }

    /// The words of a refused join, after which nothing has changed on either side.
    async fn refused(&self, invited: &JoinString, joiner: &Joiner) -> String {
        let joined = self.office.table.lock().unwrap().joined.len();
        let words = join(invited, joiner).await.unwrap_err().to_string();
        assert_eq!(self.office.table.lock().unwrap().joined.len(), joined, "{words}");
        assert!(matches!(Identity::load(&joiner.data_dir), Err(IdentityError::NotAMember(_))), "{words}");
        assert!(!joiner.cluster_file.as_ref().unwrap().exists(), "{words}");
        let left: Vec<String> = files(&joiner.data_dir);
        assert!(left.iter().all(|name| name == "node.key"), "{words}: {left:?}");
        println!("{words}");
        words
    }

    async fn close(self) {
        self.mesh.close().await;
    }
}

fn files(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn a_joined_node_is_a_member_that_the_mesh_hears() {
    let scene = Scene::new(30);
    let joiner = scene.joiner("lb2");
    let invited = scene.invite(Role::Director);
    let joined = join(&JoinString::parse(&invited.encode()).unwrap(), &joiner).await.unwrap();
    assert_eq!(joined.record.id, NodeId(2));
    assert!(joined.copied_cluster_file);
    assert_eq!(
        std::fs::read_to_string(joiner.cluster_file.as_ref().unwrap()).unwrap(),
        scene.office.facts.cluster_toml
    );
    let identity = Identity::load(&joiner.data_dir).unwrap();
    assert_eq!(identity.record, joined.record);
    assert!(identity.authority.is_none(), "the CA key stays on voters");
    assert_eq!(first_members(&joiner.data_dir).unwrap(), joined.members);
    assert_eq!(joined.members.len(), 2);
    let echo = Arc::new(Echo::default());
    let mesh = Mesh::bind(joiner.listen, Arc::new(identity), 1, SLOW, echo).unwrap();
    mesh.set_members(joined.members);
    scene.mesh.set_members(scene.office.cluster().members);
    until(mesh.reachable(), "linked", all_linked).await;
    let again = join(&invited, &joiner).await.unwrap_err().to_string();
    assert!(again.contains("belongs to node n2 of the cluster edge already"), "{again}");
    mesh.close().await;
    scene.close().await;
}

#[tokio::test]
async fn an_existing_cluster_file_is_left_alone() {
    let scene = Scene::new(31);
    let joiner = scene.joiner("lb2");
    std::fs::write(joiner.cluster_file.as_ref().unwrap(), "# mine").unwrap();
    assert!(!join(&scene.invite(Role::Director), &joiner).await.unwrap().copied_cluster_file);
    assert_eq!(std::fs::read_to_string(joiner.cluster_file.as_ref().unwrap()).unwrap(), "# mine");
    scene.close().await;
}

#[tokio::test]
async fn every_wrong_join_has_its_own_words_and_changes_nothing() {
    let scene = Scene::new(32);
    let table = |change: &dyn Fn(&mut Table)| change(&mut scene.office.table.lock().unwrap());
    let joiner = scene.joiner("lb2");

    let unknown = JoinString::invite(Role::Director, vec![scene.listen], scene.pin).unwrap();
    assert!(scene.refused(&unknown, &joiner).await.contains("knows no such invitation"));
    let stolen = JoinString { secret: [0; 16], ..scene.invite(Role::Director) };
    assert!(scene.refused(&stolen, &joiner).await.contains("knows no such invitation"), "the name without the secret");

    let expired = scene.invite(Role::Director);
    let ended = wall_now() - Duration::from_secs(750);
    table(&|table| table.invitations.get_mut(&expired.invitation).unwrap().expires_at = ended);
    assert!(scene.refused(&expired, &joiner).await.contains("expired 12 min 3"));

    let used = scene.invite(Role::Director);
    let by_other = Some(Use { name: "lb7".into(), key: [1; 32] });
    table(&|table| table.invitations.get_mut(&used.invitation).unwrap().used.clone_from(&by_other));
    assert!(scene.refused(&used, &joiner).await.contains("already used by lb7"));

    let witness = scene.invite(Role::Witness);
    assert!(scene.refused(&witness, &joiner).await.contains("for a witness, this node's role is director"));
    let relabeled = JoinString { role: Role::Director, ..witness };
    assert!(scene.refused(&relabeled, &joiner).await.contains("for a witness"), "the cluster decides, not the string");

    let good = scene.invite(Role::Director);
    let twin = Joiner { name: "lb1".into(), ..joiner.clone() };
    assert!(scene.refused(&good, &twin).await.contains("the name lb1 belongs to n1"));
    let odd = Joiner { name: "lb 2".into(), ..joiner.clone() };
    assert!(scene.refused(&good, &odd).await.contains("1 to 63 letters"));
    let taken = Joiner { listen: scene.listen, ..joiner.clone() };
    assert!(scene.refused(&good, &taken).await.contains("cannot listen on"));

    table(&|table| table.clock_ahead = Duration::from_secs(552));
    assert!(scene.refused(&good, &joiner).await.contains("9 min 12 s behind the cluster's (limit 30 s)"));
    table(&|table| table.clock_ahead = Duration::ZERO);

    table(&|table| table.leader = Leader::Nobody);
    assert!(scene.refused(&good, &joiner).await.contains("no leader"));
    table(&|table| table.leader = Leader::At(scene.listen));
    assert!(scene.refused(&good, &joiner).await.contains("name each other as the leader"));
    table(&|table| table.leader = Leader::Here);

    let nobody = JoinString { addresses: vec![address()], ..good.clone() };
    assert!(scene.refused(&nobody, &joiner).await.contains(&format!("cannot reach {} (", nobody.addresses[0])));

    join(&good, &joiner).await.expect("after all of that the same invitation still works");
    scene.close().await;
}

#[tokio::test]
async fn an_impostor_hears_nothing() {
    let (scene, impostor) = (Scene::new(33), Scene::new(33));
    let joiner = scene.joiner("lb2");
    let invited = scene.invite(Role::Director);
    let misled = JoinString { addresses: vec![impostor.listen, scene.listen], ..invited };
    let words = scene.refused(&misled, &joiner).await;
    assert!(words.contains("does not match the pin") && words.contains("Nothing was sent"), "{words}");
    assert!(impostor.office.table.lock().unwrap().joined.is_empty());
    impostor.close().await;
    scene.close().await;
}

#[tokio::test]
async fn an_answer_for_another_cluster_is_not_installed() {
    let scene = Scene::answering_for(37, Some(ClusterId(5)));
    let joiner = scene.joiner("lb2");
    let error = join(&scene.invite(Role::Director), &joiner).await.unwrap_err();
    assert!(matches!(error, JoinError::WrongCluster { .. }), "{error}");
    assert_eq!(files(&joiner.data_dir), ["node.key"]);
    scene.close().await;
}

#[tokio::test]
async fn a_joiner_that_cannot_be_reached_is_not_admitted() {
    let scene = Scene::new(34);
    let invited = scene.invite(Role::Director);
    let joiner = scene.joiner("lb2");
    // The joiner claims an address where somebody else answers: a relay, or a wrong `listen` behind a NAT.
    let other = Key::generate().unwrap();
    let request = |listen| crate::net::join::JoinRequest {
        invitation: invited.invitation,
        secret: invited.secret,
        csr: Key::generate().unwrap().request().unwrap(),
        name: joiner.name.clone(),
        role: Role::Director,
        rack: "r1".into(),
        listen,
        wall: wall_now(),
    };
    let silent = address();
    let transport = crate::net::tls::transport(&SLOW).unwrap();
    let server = crate::net::tls::joiner_server(&other, transport).unwrap();
    let wrong = quinn::Endpoint::server(server, address()).unwrap();
    let accepting = wrong.clone();
    tokio::spawn(async move {
        while let Some(incoming) = accepting.accept().await {
            assert!(incoming.await.is_err(), "the member ends it");
        }
    });
    for (listen, expected) in [(silent, "no answer"), (wrong.local_addr().unwrap(), "UnknownIssuer")] {
        let answer = admit::admit(&request(listen), &*scene.office).await;
        let crate::net::join::JoinAnswer::Refused(Refusal::NoWayBack { address, why }) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(address, listen);
        assert!(why.contains(expected), "{why}");
    }
    assert!(scene.office.table.lock().unwrap().joined.is_empty());
    wrong.close(0u32.into(), b"");
    scene.close().await;
}

#[tokio::test]
async fn a_join_whose_answer_was_lost_continues_as_the_same_node() {
    let scene = Scene::new(35);
    let joiner = scene.joiner("lb2");
    let invited = scene.invite(Role::Director);
    scene.office.table.lock().unwrap().lose_answers = true;
    let lost = join(&invited, &joiner).await.unwrap_err();
    assert!(matches!(lost, JoinError::AnswerLost { .. }), "{lost}");
    assert!(lost.to_string().contains("run the same command again"), "{lost}");
    assert_eq!(scene.office.table.lock().unwrap().joined.len(), 1);
    scene.office.table.lock().unwrap().lose_answers = false;
    assert_eq!(join(&invited, &joiner).await.unwrap().record.id, NodeId(2));
    assert_eq!(scene.office.table.lock().unwrap().joined.len(), 1);
    let thief = scene.joiner("lb3");
    assert!(scene.refused(&invited, &thief).await.contains("already used by lb2"));
    scene.close().await;
}

#[tokio::test]
async fn a_follower_sends_the_joiner_to_the_leader() {
    let scene = Scene::new(36);
    // A second member of the same cluster that does not lead.
    let key = Key::generate().unwrap();
    let certificate = scene.office.authority.sign_own(&key, NodeId(9), wall_now()).unwrap();
    let record = NodeRecord {
        id: NodeId(9),
        name: "lb9".into(),
        role: Role::Director,
        cluster: scene.office.facts.id,
        cluster_name: "edge".into(),
        lineage: scene.office.facts.lineage,
    };
    let ca = scene.office.authority.certificate().clone();
    let identity = Arc::new(Identity { record, key, certificate: certificate.into(), ca, authority: None });
    let office = Arc::new(Office {
        authority: scene.office.authority.clone(),
        facts: scene.office.facts.clone(),
        mesh: OnceLock::new(),
        table: Mutex::new(Table {
            leader: Leader::At(scene.listen),
            invitations: BTreeMap::new(),
            joined: BTreeMap::new(),
            clock_ahead: Duration::ZERO,
            lose_answers: false,
        }),
    });
    let listen = address();
    let follower = Mesh::bind(listen, identity, 1, SLOW, Arc::new(Desk(office))).unwrap();
    let invited = JoinString { addresses: vec![listen], ..scene.invite(Role::Director) };
    assert_eq!(join(&invited, &scene.joiner("lb2")).await.unwrap().record.id, NodeId(2));
    follower.close().await;
    scene.close().await;
}
