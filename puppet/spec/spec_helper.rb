# frozen_string_literal: true

# Needs nothing but rspec and rspec-puppet. The module is found under its own name through a link in a directory of its own.
require 'fileutils'
require 'rspec-puppet'
require 'tmpdir'

modules = Dir.mktmpdir('bridgeward-modules-')
at_exit { FileUtils.remove_entry(modules) }
FileUtils.ln_s(File.expand_path('..', __dir__), File.join(modules, 'bridgeward'))

RSpec.configure do |config|
  config.module_path = [modules, ENV.fetch('BRIDGEWARD_MODULES', '/usr/share/puppet/modules')].join(File::PATH_SEPARATOR)
  config.hiera_config = File.expand_path('hiera.yaml', __dir__)
  config.setup_fixtures = false
  config.mock_with(:rspec)
end
