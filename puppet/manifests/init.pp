# @summary A bridgeward gateway on this node: program, user, directories, policy, certificates and service.
#
# The policy is written twice. First as a whole to `<config_dir>/.next`; there `bridgeward check` reads it, as the user that
# the gateway runs as, and as if it stood in `<config_dir>`. Only then it lands, file by file, each with the same check as
# its `validate_cmd`. So a policy lands as a whole or not at all, and what changes together may refer to each other.
#
# @param package
#   The package to install; false where the program comes otherwise, and then a systemd unit is written, too.
# @param package_ensure
#   `installed`, `latest` or a version.
# @param binary
#   The program.
# @param user
#   The user that the gateway runs as.
# @param group
#   That user's own group: root's files that it may read, such as secrets, are this group's.
# @param manage_user
#   Whether to make both, as system accounts without a shell.
# @param config_dir
#   The policy's directory, with `secrets` and `tls` in it.
# @param state_dir
#   The queue and the audit log; the user's own.
# @param run_dir
#   The operators' socket; the user's own.
# @param ssldir
#   The ssldir of the agent, whose certificate the gateway shows and whose CA it trusts: copies go to `<config_dir>/tls` in
#   every run, the revocation list too. With false, `gateway` names certificates in `listen`.
# @param certname
#   The certificate's name in the ssldir.
# @param addresses
#   Where it listens. Empty: where its `bridgeward::listener`s say, and without any at `0.0.0.0:8443`.
# @param gateway
#   Tables of `gateway.toml`, beside and over what this class says itself.
# @param keys
#   `bridgeward::key`s by name; Sensitive as a whole, or each secret in it.
# @param routes
#   `bridgeward::route`s by name.
# @param listeners
#   `bridgeward::listener`s by name.
# @param manage_service
#   Whether to run it as a service.
# @param service_name
#   The service.
# @param service_ensure
#   `running` or `stopped`.
# @param service_enable
#   Whether it starts with the machine.
# @param reload_command
#   What is run after the policy has changed, as argv; by default `bridgeward reload` at the operators' socket.
#
# @example On a Puppet master
#   include bridgeward
#   bridgeward::route { 'kick_haproxy_app_internal':
#     method => 'GET',
#     allow  => [{ 'extensions' => { 'pp_auth_role' => ['app_internal'] } }],
#     run    => {
#       'steps'    => [['/usr/bin/mco', 'puppet', 'runonce', '-F', 'role=haproxy_app_internal']],
#       'coalesce' => true,
#     },
#   }
class bridgeward (
  Variant[Boolean[false], String[1]] $package = 'bridgeward',
  String[1] $package_ensure = 'installed',
  Bridgeward::Path $binary = '/usr/bin/bridgeward',
  Bridgeward::Account $user = 'bridgeward',
  Bridgeward::Account $group = $user,
  Boolean $manage_user = true,
  Bridgeward::Path $config_dir = '/etc/bridgeward',
  Bridgeward::Path $state_dir = '/var/lib/bridgeward',
  Bridgeward::Path $run_dir = '/run/bridgeward',
  Variant[Boolean[false], Bridgeward::Path] $ssldir = '/etc/puppetlabs/puppet/ssl',
  String[1] $certname = $trusted['certname'],
  Array[String[1]] $addresses = [],
  Hash[Enum['listen', 'admin', 'queue', 'audit', 'limits'], Hash[String[1], Any]] $gateway = {},
  Variant[Hash[Bridgeward::Name, Hash], Sensitive[Hash[Bridgeward::Name, Hash]]] $keys = {},
  Hash[Bridgeward::Name, Hash] $routes = {},
  Hash[String[1], Hash] $listeners = {},
  Boolean $manage_service = true,
  String[1] $service_name = 'bridgeward',
  Enum['running', 'stopped'] $service_ensure = 'running',
  Boolean $service_enable = true,
  Optional[Array[String[1], 1]] $reload_command = undef,
) {
  contain bridgeward::install
  contain bridgeward::policy
  contain bridgeward::service

  Class['bridgeward::install'] -> Class['bridgeward::policy'] -> Class['bridgeward::service']

  $plain_keys = $keys ? {
    Sensitive => $keys.unwrap,
    default   => $keys,
  }
  $plain_keys.each |$name, $key| {
    bridgeward::key { $name:
      * => $key + { 'secrets' => $key['secrets'].map |$secret| { Sensitive($secret) } },
    }
  }
  $routes.each |$name, $route| {
    bridgeward::route { $name:
      * => $route,
    }
  }
  $listeners.each |$name, $listener| {
    bridgeward::listener { $name:
      * => $listener,
    }
  }
}
