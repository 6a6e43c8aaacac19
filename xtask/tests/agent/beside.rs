//! What a request says of a container or process beside its specification.

use ferry_init::api::agent::{CreateContainerRequest, SharedMount, StringUser};
use ferry_init::api::method;
use ferry_init::api::ttrpc::Code;
use ferry_vmm::agent::{Client, OutputStream};

use crate::guest::*;

/// A container that is made with more than its specification, and runs; its id.
fn made(client: &Client, command: &[&str], change: impl FnOnce(&mut CreateContainerRequest)) -> String {
    let mut request = create_request(&container(&fresh("beside"), command, |_| {}));
    change(&mut request);
    client.create_container(&request).expect("it is created");
    client.start_container(&request.container_id).expect("it starts");
    request.container_id
}

fn user(uid: &str, gid: &str, additional: &[&str]) -> StringUser {
    let additional_gids = additional.iter().map(|gid| (*gid).to_owned()).collect();
    StringUser { uid: uid.to_owned(), gid: gid.to_owned(), additional_gids }
}

#[test]
fn a_user_is_named_in_words() {
    let mut guest = guest();
    let client = guest.client();
    // The container's own files say who that is, as they are when the process begins.
    let script = "echo crew:x:77:88::/:/bin/sh >/etc/passwd; echo hands:x:99:crew >/etc/group; \
                  id -u; id -g; exec sleep 1000";
    let id = made(&client, &["sh", "-c", script], |request| request.string_user = Some(user("0", "5", &[])));
    reads(&client, &id, "0\n5\n");
    for (named, seen) in [
        (user("crew", "", &["5"]), "uid=77(crew) gid=88 groups=5,88,99(hands)"),
        (user("crew", "hands", &[]), "uid=77(crew) gid=99(hands) groups=99(hands)"),
        (user("12", "13", &["14"]), "uid=12 gid=13 groups=13,14"),
    ] {
        let mut request = further(&id, &fresh("named"), &["id"]);
        request.string_user = Some(named.clone());
        tell(&client, method::EXEC_PROCESS, &request).unwrap();
        let text = read_all(&client, OutputStream::Stdout, &id, &request.exec_id);
        assert_eq!(String::from_utf8_lossy(&text).trim(), seen, "{named:?}");
        assert_eq!(wait(&client, &id, &request.exec_id).expect("it ends"), 0);
    }
    for (unknown, word) in [(user("captain", "", &[]), "captain"), (user("crew", "", &["mates"]), "mates")] {
        let mut nobody = further(&id, &fresh("nobody"), &["id"]);
        nobody.string_user = Some(unknown);
        let refusal = tell(&client, method::EXEC_PROCESS, &nobody);
        assert!(refusal.as_ref().is_err_and(|error| error.to_string().contains(word)), "{refusal:?}");
    }
    client.remove_container(&id, LONG).unwrap();
}

/// The sandbox's processes are PID 1's: who is among them sees it, and can do nothing to it.
#[test]
fn the_sandbox_s_processes_are_seen_by_who_shares_them() {
    let mut guest = guest();
    let client = guest.client();
    let ids = [(); 2].map(|()| made(&client, &["sleep", "1000"], |request| request.sandbox_pidns = true));
    let its = |id: &String, script: &str| output(&client, id, &["sh", "-c", &format!("{script} 2>&1")]);
    let [one, other] = &ids;
    let namespace = "readlink /proc/self/ns/pid";
    assert_eq!(its(one, namespace), its(other, namespace));
    let sleepers = its(one, "ps -o args | grep -c '^[s]leep 1000'").1;
    assert!(sleepers.trim().parse::<u32>().is_ok_and(|count| count >= 2), "{sleepers:?}");
    for attempt in [
        "cd /proc/1/root",
        "readlink /proc/1/fd/3",
        "cat /proc/1/environ",
        "cat /proc/1/mem",
        "nsenter -t 1 -m true",
        "kill -9 1 && ! kill -0 1",
    ] {
        let (status, said) = its(one, attempt);
        assert_ne!(status, 0, "{attempt}: {said}");
    }
    for id in &ids {
        client.remove_container(id, LONG).unwrap();
    }
}

#[test]
fn mounts_of_other_containers_are_refused() {
    let mut guest = guest();
    let client = guest.client();
    let mut request = create_request(&container(&fresh("shares"), &["true"], |_| {}));
    request.shared_mounts = vec![SharedMount { name: "data".to_owned(), ..Default::default() }];
    assert_eq!(code(&client.create_container(&request)), Code::Unimplemented);
}
