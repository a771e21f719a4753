require 'open3'

module MCollective
  module Agent
    # Stands in for the puppet plugin, which Debian does not package: runs the configured program where that runs the agent.
    class Puppet < RPC::Agent
      action 'runonce' do
        # Not `run`, which Ruby 3 breaks.
        output, status = Open3.capture2e(@config.pluginconf.fetch('stand_in.program'))
        reply[:summary] = output
        reply.fail!("exit #{status.exitstatus}") unless status.success?
      end
    end
  end
end
