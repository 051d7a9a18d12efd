use super::Provider;

#[test]
fn a_provider_is_a_name_with_options() {
    let parse = |text: &str| text.parse::<Provider>();
    let option = |key: &str, value: &str| (key.to_string(), value.to_string());
    let cuda = parse("CUDA:device_id=1,use_tf32=0").expect("a provider");
    assert_eq!(cuda.name, "cuda");
    assert_eq!(cuda.options, [option("device_id", "1"), option("use_tf32", "0")]);
    let path = parse("qnn:backend_path=C:\\lib.dll,empty=").expect("a provider");
    assert_eq!(path.options, [option("backend_path", "C:\\lib.dll"), option("empty", "")]);
    for text in ["cpu", "cpu:"] {
        assert_eq!(parse(text).expect("a name"), Provider { name: "cpu".into(), options: vec![] });
    }
    for wrong in ["", ":a=1", "cuda:a", "cuda:=1", "cuda:a=1\0"] {
        assert!(parse(wrong).is_err(), "'{wrong}'");
    }
}
