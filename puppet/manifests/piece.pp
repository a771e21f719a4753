# @summary A piece of `gateway.toml`, staged and landed.
# @api private
#
# @param order
#   Where it stands.
# @param content
#   Lines of TOML.
define bridgeward::piece (
  String[1] $order,
  String $content,
) {
  assert_private()

  ['.next/gateway.toml', 'gateway.toml'].each |$file| {
    concat::fragment { "bridgeward ${file}: ${title}":
      target  => "${bridgeward::config_dir}/${file}",
      order   => $order,
      content => $content,
      tag     => "bridgeward_${title.regsubst('[^A-Za-z0-9]', '_', 'G')}",
    }
  }
}
