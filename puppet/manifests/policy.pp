# @summary The policy: staged, checked, and landed.
# @api private
class bridgeward::policy {
  assert_private()

  $config_dir = $bridgeward::config_dir
  $next = "${config_dir}/.next"
  $check = [
    '/sbin/runuser', '-u', $bridgeward::user, '--',
    $bridgeward::binary, 'check', '--policy', $next, '--as', $config_dir,
  ]
  # Of its parts, each is of a type that knows neither a space nor anything else that a shell would read.
  $validate = $check.join(' ')

  file {
    default:
      ensure  => directory,
      owner   => 'root',
      group   => $bridgeward::group,
      mode    => '0750',
      recurse => true,
      purge   => true,
      force   => true;
    $next:
      ;
    "${next}/routes":
      ;
    "${config_dir}/routes":
      require => Exec['bridgeward check'];
  }

  concat {
    default:
      owner => 'root',
      group => $bridgeward::group,
      mode  => '0640';
    "${next}/gateway.toml":
      before => Exec['bridgeward check'];
    "${config_dir}/gateway.toml":
      validate_cmd => $validate,
      require      => Exec['bridgeward check'];
  }

  # A policy that is not good stops here, before anything is removed or replaced.
  exec { 'bridgeward check':
    command   => $check,
    unless    => [['/usr/bin/diff', '-rq', '-x', 'secrets', '-x', 'tls', '-x', '.*', $next, $config_dir]],
    logoutput => on_failure,
    require   => File["${next}/routes"],
  }

  $tls = "${config_dir}/tls"
  $certificates = $bridgeward::ssldir ? {
    false   => {},
    default => {
      'certificate' => "${tls}/server.pem",
      'private_key' => "${tls}/server.key",
      'client_ca'   => "${tls}/ca.pem",
      'client_crl'  => "${tls}/crl.pem",
    },
  }
  $given = $bridgeward::gateway
  $own = {
    'listen' => $certificates,
    'admin'  => { 'socket' => "${bridgeward::run_dir}/admin.sock" },
    'queue'  => { 'file' => "${bridgeward::state_dir}/queue.db" },
    'audit'  => { 'file' => "${bridgeward::state_dir}/audit.jsonl" },
  }
  $tables = $own + $given.reduce({}) |$merged, $table| {
    $beside = $own[$table[0]].lest || { {} }
    $merged + { $table[0] => $beside + $table[1] }
  }

  # The addresses are a list of their own, so that listeners can add to it.
  $named = Array($tables['listen']['address'].lest || { $bridgeward::addresses }, true)
  bridgeward::piece { 'head':
    order   => '01',
    content => "# Written by Puppet.\n\n[listen]\naddress = [\n",
  }
  if $named.empty {
    bridgeward::piece { 'default address':
      order   => '02',
      content => "  \"0.0.0.0:8443\",\n",
    }
  } else {
    $named.each |$address| {
      bridgeward::piece { "address ${address}":
        order   => '02',
        content => "  \"${address}\",\n",
      }
    }
  }
  $listen = $tables['listen'].filter |$name, $_value| { $name != 'address' }
  bridgeward::piece { 'tables':
    order   => '03',
    content => ["]\n", bridgeward::to_toml($listen), bridgeward::to_toml($tables - 'listen')].join,
  }
}
