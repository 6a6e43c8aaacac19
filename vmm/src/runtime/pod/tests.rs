//! What a pod's machine is like.

use super::*;
use crate::runtime::shape::Shape;

fn pod(containers: &str) -> Pod {
    let text =
        format!("{{apiVersion: v1, kind: Pod, metadata: {{name: a}}, spec: {{containers: [{containers}]}}}}");
    parse(&text).unwrap()
}

#[test]
fn a_machine_is_as_large_as_the_limits_of_its_containers() {
    let one = "{name: b, image: c, resources: {limits: {cpu: 1500m, memory: 600Mi}}}";
    let two = "{name: d, image: c, resources: {limits: {cpu: 700m, memory: 200Mi}}, ports: [{containerPort: 80, hostPort: 81}]}";
    let pod = pod(&format!("{one}, {two}"));
    let shape = machine(&pod, Shape::default(), false, false);
    assert_eq!((shape.vcpus, shape.memory_mib), (3, 800 + 128));
    assert_eq!(shape.network.published, [crate::runtime::network::parse_published("81:80").unwrap()]);
    let shape = machine(&pod, Shape::default(), true, true);
    assert_eq!((shape.vcpus, shape.memory_mib), (1, 512), "what was asked for by hand stays");
}

#[test]
fn limits_below_the_usual_machine_leave_it_as_it_is() {
    let small = pod("{name: b, image: c, resources: {limits: {cpu: 100m, memory: 64Mi}}}");
    let shape = machine(&small, Shape::default(), false, false);
    assert_eq!((shape.vcpus, shape.memory_mib), (1, 512));
}
