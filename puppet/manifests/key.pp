# @summary A key of the policy: who can sign requests, by which scheme, with which secrets.
#
# Its secrets are files that only root and the gateway's group can read. A secret that is no longer declared verifies
# nothing, but its file stays: remove it by hand.
#
# @param secrets
#   At least 16 bytes each. Any of them verifies: to rotate one, add the new one, have the sender use it, then take out the old one.
# @param scheme
#   How requests are signed.
# @param settings
#   Further keys of `[keys.<name>]`, such as `window`, `remember` and `id`.
#
# @example
#   bridgeward::key { 'jenkins':
#     secrets => [Sensitive(lookup('jenkins_secret'))],
#   }
define bridgeward::key (
  Array[Sensitive[String[1]], 1] $secrets,
  String[1] $scheme = 'rfc9421',
  Hash[String[1], Any] $settings = {},
) {
  include bridgeward

  $name_of_key = assert_type(Bridgeward::Name, $title)

  # Sensitive hides from types how long its text is.
  if $secrets.any |$secret| { $secret.unwrap.length < 16 } {
    fail("Bridgeward::Key[${name_of_key}]: a secret has at least 16 bytes: `openssl rand -hex 32` makes a good one")
  }

  $files = $secrets.map |$index, $secret| {
    $file = "${bridgeward::config_dir}/secrets/${name_of_key}.${$index + 1}"
    file { $file:
      ensure    => file,
      owner     => 'root',
      group     => $bridgeward::group,
      mode      => '0640',
      content   => Sensitive("${secret.unwrap}\n"),
      show_diff => false,
      before    => Exec['bridgeward check'],
      notify    => Class['bridgeward::service'],
    }
    $file
  }

  bridgeward::piece { "key ${name_of_key}":
    order   => '10',
    content => bridgeward::to_toml(
      { 'keys' => { $name_of_key => { 'scheme' => $scheme, 'secrets' => $files } + $settings } }
    ),
  }
}
