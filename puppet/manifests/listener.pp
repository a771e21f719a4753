# @summary A port that the gateway listens on, with routes that need little more than a command.
#
# One gateway serves every port: all its routes can be asked for at each of them.
#
# @param port
#   The port.
# @param routes
#   By name: `method`, `command` as an array of the program's absolute path and its arguments, and what `bridgeward::route`
#   takes beside them; `run` is further keys of `[run]`. A shell string is refused: there is no shell.
# @param address
#   The address of this node that it listens on; IPv6 addresses without brackets.
# @param allow
#   The rules for routes that have none of their own. There must be some: a gateway lets in nobody by default.
#
# @example
#   bridgeward::listener { 'puppet':
#     port   => 8443,
#     allow  => [{ 'extensions' => { 'pp_auth_role' => ['app_internal'] } }],
#     routes => {
#       'kick_haproxy_app_internal' => {
#         'method'  => 'GET',
#         'command' => ['/usr/bin/mco', 'puppet', 'runonce', '-F', 'role=haproxy_app_internal'],
#         'run'     => { 'coalesce' => true, 'timeout' => '5m' },
#       },
#     },
#   }
define bridgeward::listener (
  Integer[1, 65535] $port,
  Hash[Bridgeward::Name, Hash[String[1], Any], 1] $routes,
  String[1] $address = '0.0.0.0',
  Array[Bridgeward::Rule] $allow = [],
) {
  include bridgeward

  $host = $address ? {
    /:/     => "[${address}]",
    default => $address,
  }
  bridgeward::piece { "listener ${title}":
    order   => '02',
    content => "  \"${host}:${port}\",\n",
  }
  # The default address is for gateways without a listener.
  Concat::Fragment <| tag == 'bridgeward_default_address' |> {
    content => "\n",
  }

  $routes.each |$name, $route| {
    $where = "Bridgeward::Listener[${title}], route ${name}"
    if $route['command'] =~ String {
      fail(bridgeward::argv_hint($where, $route['command']))
    }
    $argv = assert_type(Bridgeward::Argv, $route['command']) |$_expected, $_actual| {
      fail("${where}: command must be an array: the absolute path of a program, then its arguments, all strings")
    }
    $rules = $route['allow'].lest || { $allow }
    if $rules.empty {
      fail("${where}: nobody may use it; say who in `allow`, here or for the whole listener")
    }
    $further = $route['run'].lest || { {} }
    bridgeward::route { $name:
      * => ($route - ['command', 'allow', 'run']) + {
        'allow' => $rules,
        'run'   => { 'steps' => [$argv] } + $further,
      },
    }
  }
}
